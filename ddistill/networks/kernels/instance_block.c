/* Instance norm, ReLU and average pool 2 in one pass: forward, gradient, and gradient of the gradient.
 *
 * Images are channels-last: x (n, h, w, c) with the channel innermost, pooled maps (n, h/2, w/2, c). Maps and their
 * gradients are float, or bfloat16 where BF16 is defined; statistics, gamma, beta and all arithmetic are float.
 * A rest row or column of an odd side counts for the statistics and is left out by the pool.
 * Each image's maps stay in the second-level cache between the passes over them, and BLOCK channels are
 * handled side by side, as one vector: compilers do not find these loops by themselves in each version.
 *
 * Notation, per image and channel, with N = h * w pixels, m the mean, r = 1 / sqrt(variance + eps):
 *   t = (x - m) * r                      normalised
 *   y = pool(relu(gamma * t + beta))
 *   u = gradient of y spread over its four pixels, 0 where the ReLU is closed
 *   a = mean(u), b = mean(u * t)
 *   dx = gamma * r * (u - a - t * b),  dgamma = N * b,  dbeta = N * a
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 16
#define INLINE static inline __attribute__((always_inline))

typedef float Vec __attribute__((vector_size(4 * BLOCK)));
typedef int32_t Mask __attribute__((vector_size(4 * BLOCK)));
typedef uint32_t Bits __attribute__((vector_size(4 * BLOCK)));
typedef uint16_t Halves __attribute__((vector_size(2 * BLOCK)));

/* width values, and zeros up to BLOCK: a constant width of BLOCK is one instruction. */
INLINE Vec read(const float *p, int width) {
    Vec v = {0};
    memcpy(&v, p, width * sizeof *p);
    return v;
}
INLINE void write(float *p, Vec v, int width) { memcpy(p, &v, width * sizeof *p); }

#ifdef BF16
typedef uint16_t Map;
INLINE Vec load(const Map *p, int width) {
    Halves v = {0};
    memcpy(&v, p, width * sizeof *p);
    return (Vec)(__builtin_convertvector(v, Bits) << 16);
}
INLINE void store(Map *p, Vec v, int width) { /* to the nearest, ties to even; a NaN would overflow in the rounding */
    const Bits bits = (Bits)v, nan = (Bits)(v != v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Halves halves = __builtin_convertvector((rounded & ~nan) | (0x7fc0 & nan), Halves);
    memcpy(p, &halves, width * sizeof *p);
}
#else
typedef float Map;
#define load read
#define store write
#endif

static const Map nothing[BLOCK]; /* the pooled value of a pixel that the pool leaves out */

typedef struct {
    int64_t n, h, w, c;
} Shape;

/* The pooled value that a pixel belongs to, or zeros for the rest row and column. */
INLINE const Map *pooled(const Map *g, int64_t row, int64_t column, const Shape *s) {
    const int64_t h2 = s->h / 2, w2 = s->w / 2;
    return row / 2 < h2 && column / 2 < w2 ? g + ((row / 2) * w2 + column / 2) * s->c : nothing;
}

INLINE Vec where(Mask open, Vec v) { return (Vec)((Mask)v & open); }
INLINE Vec relu(Vec v) { return where(v > 0, v); }
INLINE Vec inverse_root(Vec v) {
    for (int k = 0; k < BLOCK; k++) v[k] = 1.0f / sqrtf(v[k]);
    return v;
}

INLINE void forward_block(const Map *restrict x, const float *restrict gamma, const float *restrict beta,
                          Map *restrict y, float *restrict mean, float *restrict rstd, const Shape *s, float eps,
                          const int width) {
    const int64_t pixels = s->h * s->w, h2 = s->h / 2, w2 = s->w / 2, c = s->c;
    Vec sum = {0}, square = {0};
    for (int64_t p = 0; p < pixels; p++) sum += load(x + p * c, width);
    const Vec m = sum / (float)pixels;
    for (int64_t p = 0; p < pixels; p++) {
        const Vec d = load(x + p * c, width) - m;
        square += d * d;
    }
    const Vec r = inverse_root(square / (float)pixels + eps), scale = read(gamma, width) * r;
    const Vec shift = read(beta, width) - m * scale;
    write(mean, m, width);
    write(rstd, r, width);
    for (int64_t i = 0; i < h2; i++)
        for (int64_t j = 0; j < w2; j++) {
            const Map *p = x + (2 * i * s->w + 2 * j) * c, *q = p + s->w * c;
            const Vec above = relu(load(p, width) * scale + shift) + relu(load(p + c, width) * scale + shift);
            const Vec below = relu(load(q, width) * scale + shift) + relu(load(q + c, width) * scale + shift);
            store(y + (i * w2 + j) * c, 0.25f * (above + below), width);
        }
}

/* The constants of a block, kept in registers: t = x * r + tm, and the ReLU is open where x * scale + shift > 0. */
#define CONSTANTS                                                                           \
    const int64_t c = s->c;                                                                 \
    const float inverse = 1.0f / (s->h * s->w);                                             \
    const Vec r = read(rstd, width), tm = -read(mean, width) * r;                           \
    const Vec scale = read(gamma, width) * r, shift = read(beta, width) - read(mean, width) * scale;

/* Of a pixel: x, t, its pooled gradient, and u. */
#define PIXEL                                                                               \
    const int64_t at = (row * s->w + column) * c;                                           \
    const Vec wide = load(x + at, width), t = wide * r + tm;                                \
    const Vec from = 0.25f * load(pooled(g, row, column, s), width);                        \
    const Mask open = wide * scale + shift > 0;                                             \
    const Vec u = where(open, from);

INLINE void backward_block(const Map *restrict x, const float *restrict gamma, const float *restrict beta,
                           const float *restrict mean, const float *restrict rstd, const Map *restrict g,
                           Map *restrict dx, float *restrict dgamma, float *restrict dbeta, const Shape *s,
                           const int width) {
    CONSTANTS
    Vec a = {0}, b = {0};
    for (int64_t row = 0; row < s->h; row++)
        for (int64_t column = 0; column < s->w; column++) {
            PIXEL
            a += u;
            b += u * t;
        }
    write(dbeta, a, width);
    write(dgamma, b, width);
    a *= inverse;
    b *= inverse;
    for (int64_t row = 0; row < s->h; row++)
        for (int64_t column = 0; column < s->w; column++) {
            PIXEL
            store(dx + at, scale * (u - a - t * b), width);
        }
}

/* The gradient of <v, dx> + <vgamma, dgamma> + <vbeta, dbeta> with respect to x, g and gamma:
 *   e = mean(v * t),  T = mean(v * u) - mean(v) * a - b * e
 *   gx = -gamma r^2 (t T + e (u - a - t b) + b (v - mean(v) - t e)) + vgamma r (u - a - t b)
 *   gu = gamma r (v - mean(v) - t e) + vgamma t + vbeta,  ggamma = N r T
 */
INLINE void double_block(const Map *restrict x, const float *restrict gamma, const float *restrict beta,
                         const float *restrict mean, const float *restrict rstd, const Map *restrict g,
                         const Map *restrict v, const float *restrict vgamma, const float *restrict vbeta,
                         Map *restrict gx, Map *restrict gg, float *restrict ggamma, const Shape *s,
                         const int width) {
    CONSTANTS
    const int64_t h2 = s->h / 2, w2 = s->w / 2;
    Vec a = {0}, b = {0}, vm = {0}, e = {0}, T = {0};
    for (int64_t row = 0; row < s->h; row++)
        for (int64_t column = 0; column < s->w; column++) {
            PIXEL
            const Vec along = load(v + at, width);
            a += u;
            b += u * t;
            vm += along;
            e += along * t;
            T += along * u;
        }
    a *= inverse;
    b *= inverse;
    vm *= inverse;
    e *= inverse;
    T = T * inverse - vm * a - b * e;
    write(ggamma, (float)(s->h * s->w) * r * T, width);
    const Vec vg = read(vgamma, width), vb = read(vbeta, width);
    Vec cells[w2 + 1]; /* a row of gg, and what the pool leaves out */
    for (int64_t row = 0; row < s->h; row++) {
        if (row % 2 == 0) memset(cells, 0, sizeof cells);
        for (int64_t column = 0; column < s->w; column++) {
            PIXEL
            const Vec du = u - a - t * b, dv = load(v + at, width) - vm - t * e;
            store(gx + at, vg * r * du - scale * r * (t * T + e * du + b * dv), width);
            cells[column / 2] += where(open, 0.25f * (scale * dv + vg * t + vb));
        }
        if (row % 2 && row / 2 < h2)
            for (int64_t i = 0; i < w2; i++) store(gg + (row / 2 * w2 + i) * c, cells[i], width);
    }
}

/* A call with a constant width is made of whole vectors. */
#define BLOCKS(call)                                                         \
    const int64_t blocks = (s.c + BLOCK - 1) / BLOCK, plane = s.h * s.w * s.c; \
    const int64_t small = (s.h / 2) * (s.w / 2) * s.c;                       \
    _Pragma("omp parallel for num_threads(threads) schedule(static)")        \
    for (int64_t task = 0; task < s.n * blocks; task++) {                    \
        const int64_t i = task / blocks, k0 = (task % blocks) * BLOCK;       \
        const int64_t big = i * plane + k0, tiny = i * small + k0, per = i * s.c + k0; \
        if (s.c - k0 >= BLOCK) call(BLOCK);                                  \
        else call((int)(s.c - k0));                                          \
    }

void forward(const Map *x, const float *gamma, const float *beta, Map *y, float *mean, float *rstd, int64_t n,
             int64_t h, int64_t w, int64_t c, float eps, int threads) {
    const Shape s = {n, h, w, c};
#define CALL(width) forward_block(x + big, gamma + k0, beta + k0, y + tiny, mean + per, rstd + per, &s, eps, width)
    BLOCKS(CALL)
#undef CALL
}

void backward(const Map *x, const float *gamma, const float *beta, const float *mean, const float *rstd,
              const Map *g, Map *dx, float *dgamma, float *dbeta, int64_t n, int64_t h, int64_t w, int64_t c,
              int threads) {
    const Shape s = {n, h, w, c};
#define CALL(width)                                                                                           \
    backward_block(x + big, gamma + k0, beta + k0, mean + per, rstd + per, g + tiny, dx + big, dgamma + per, \
                   dbeta + per, &s, width)
    BLOCKS(CALL)
#undef CALL
}

void double_backward(const Map *x, const float *gamma, const float *beta, const float *mean, const float *rstd,
                     const Map *g, const Map *v, const float *vgamma, const float *vbeta, Map *gx, Map *gg,
                     float *ggamma, int64_t n, int64_t h, int64_t w, int64_t c, int threads) {
    const Shape s = {n, h, w, c};
#define CALL(width)                                                                                              \
    double_block(x + big, gamma + k0, beta + k0, mean + per, rstd + per, g + tiny, v + big, vgamma + k0, vbeta + k0, \
                 gx + big, gg + tiny, ggamma + per, &s, width)
    BLOCKS(CALL)
#undef CALL
}
