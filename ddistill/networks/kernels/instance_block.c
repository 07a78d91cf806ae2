/* Instance norm, ReLU and average pool 2 in one pass: forward, gradient, and gradient of the gradient.
 *
 * Images are channels-last: x (n, h, w, c) with the channel innermost, pooled maps (n, h/2, w/2, c).
 * A rest row or column of an odd side counts for the statistics and is left out by the pool.
 * Each image's maps stay in the second-level cache between the passes over them, and BLOCK channels are
 * handled side by side, so that every inner loop is a handful of vector instructions.
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
#define EACH for (int k = 0; k < width; k++)
#define INLINE static inline __attribute__((always_inline))

static const float nothing[BLOCK]; /* the pooled value of a pixel that the pool leaves out */

typedef struct {
    int64_t n, h, w, c;
} Shape;

/* The pooled value that a pixel belongs to, or zeros for the rest row and column. */
INLINE const float *pooled(const float *g, int64_t row, int64_t column, const Shape *s) {
    const int64_t h2 = s->h / 2, w2 = s->w / 2;
    return row / 2 < h2 && column / 2 < w2 ? g + ((row / 2) * w2 + column / 2) * s->c : nothing;
}

INLINE void forward_block(const float *restrict x, const float *restrict gamma, const float *restrict beta, float *restrict y, float *restrict mean, float *restrict rstd,
                          const Shape *s, float eps, const int width) {
    const int64_t pixels = s->h * s->w, h2 = s->h / 2, w2 = s->w / 2, c = s->c;
    float sum[BLOCK] = {0}, square[BLOCK] = {0}, m[BLOCK], scale[BLOCK], shift[BLOCK];
    for (int64_t p = 0; p < pixels; p++) EACH sum[k] += x[p * c + k];
    EACH m[k] = sum[k] / pixels;
    for (int64_t p = 0; p < pixels; p++) EACH {
        const float d = x[p * c + k] - m[k];
        square[k] += d * d;
    }
    EACH {
        const float r = 1.0f / sqrtf(square[k] / pixels + eps);
        mean[k] = m[k];
        rstd[k] = r;
        scale[k] = gamma[k] * r;
        shift[k] = beta[k] - m[k] * gamma[k] * r;
    }
    for (int64_t i = 0; i < h2; i++)
        for (int64_t j = 0; j < w2; j++) {
            const float *p = x + (2 * i * s->w + 2 * j) * c, *q = p + s->w * c;
            float *out = y + (i * w2 + j) * c;
            EACH {
                const float e = p[k] * scale[k] + shift[k], f = p[c + k] * scale[k] + shift[k];
                const float g = q[k] * scale[k] + shift[k], h = q[c + k] * scale[k] + shift[k];
                out[k] = 0.25f * ((e > 0 ? e : 0) + (f > 0 ? f : 0) + (g > 0 ? g : 0) + (h > 0 ? h : 0));
            }
        }
}

/* The constants of a block, kept in registers: t = x * r + tm, and the ReLU is open where x * scale + shift > 0. */
#define CONSTANTS                                                                   \
    float r[BLOCK], tm[BLOCK], scale[BLOCK], shift[BLOCK];                          \
    EACH {                                                                          \
        r[k] = rstd[k];                                                             \
        tm[k] = -mean[k] * rstd[k];                                                 \
        scale[k] = gamma[k] * rstd[k];                                              \
        shift[k] = beta[k] - mean[k] * gamma[k] * rstd[k];                          \
    }

#define PIXELS                                                                      \
    for (int64_t row = 0; row < s->h; row++)                                        \
        for (int64_t column = 0; column < s->w; column++)

INLINE void backward_block(const float *restrict x, const float *restrict gamma, const float *restrict beta,
                           const float *restrict mean, const float *restrict rstd, const float *restrict g,
                           float *restrict dx, float *restrict dgamma, float *restrict dbeta, const Shape *s,
                           const int width) {
    const float inverse = 1.0f / (s->h * s->w);
    float a[BLOCK] = {0}, b[BLOCK] = {0};
    CONSTANTS
    PIXELS {
        const float *restrict p = x + (row * s->w + column) * s->c, *restrict from = pooled(g, row, column, s);
        EACH {
            const float u = p[k] * scale[k] + shift[k] > 0 ? 0.25f * from[k] : 0.0f;
            a[k] += u;
            b[k] += u * (p[k] * r[k] + tm[k]);
        }
    }
    EACH {
        dbeta[k] = a[k];
        dgamma[k] = b[k];
        a[k] *= inverse;
        b[k] *= inverse;
    }
    PIXELS {
        const int64_t at = (row * s->w + column) * s->c;
        const float *restrict p = x + at, *restrict from = pooled(g, row, column, s);
        float *restrict out = dx + at;
        EACH {
            const float u = p[k] * scale[k] + shift[k] > 0 ? 0.25f * from[k] : 0.0f;
            out[k] = scale[k] * (u - a[k] - (p[k] * r[k] + tm[k]) * b[k]);
        }
    }
}

/* The gradient of <v, dx> + <vgamma, dgamma> + <vbeta, dbeta> with respect to x, g and gamma:
 *   e = mean(v * t),  T = mean(v * u) - mean(v) * a - b * e
 *   gx = -gamma r^2 (t T + e (u - a - t b) + b (v - mean(v) - t e)) + vgamma r (u - a - t b)
 *   gu = gamma r (v - mean(v) - t e) + vgamma t + vbeta,  ggamma = N r T
 */
INLINE void double_block(const float *restrict x, const float *restrict gamma, const float *restrict beta,
                         const float *restrict mean, const float *restrict rstd, const float *restrict g,
                         const float *restrict v, const float *restrict vgamma, const float *restrict vbeta,
                         float *restrict gx, float *restrict gg, float *restrict ggamma, const Shape *s,
                         const int width) {
    const int64_t pixels = s->h * s->w, cells = (s->h / 2) * (s->w / 2), c = s->c;
    const float inverse = 1.0f / pixels;
    float a[BLOCK] = {0}, b[BLOCK] = {0}, vm[BLOCK] = {0}, e[BLOCK] = {0}, T[BLOCK] = {0}, none[BLOCK];
    float vg[BLOCK], vb[BLOCK];
    CONSTANTS
    PIXELS {
        const int64_t at = (row * s->w + column) * c;
        const float *restrict p = x + at, *restrict q = v + at, *restrict from = pooled(g, row, column, s);
        EACH {
            const float t = p[k] * r[k] + tm[k];
            const float u = p[k] * scale[k] + shift[k] > 0 ? 0.25f * from[k] : 0.0f;
            a[k] += u;
            b[k] += u * t;
            vm[k] += q[k];
            e[k] += q[k] * t;
            T[k] += q[k] * u;
        }
    }
    EACH {
        a[k] *= inverse;
        b[k] *= inverse;
        vm[k] *= inverse;
        e[k] *= inverse;
        T[k] = T[k] * inverse - vm[k] * a[k] - b[k] * e[k];
        ggamma[k] = pixels * r[k] * T[k];
        vg[k] = vgamma[k];
        vb[k] = vbeta[k];
    }
    for (int64_t i = 0; i < cells; i++) EACH gg[i * c + k] = 0.0f;
    PIXELS {
        const int64_t at = (row * s->w + column) * c;
        const float *restrict p = x + at, *restrict q = v + at, *from = pooled(g, row, column, s);
        float *restrict out = gx + at, *restrict to = from == nothing ? none : gg + (from - g);
        EACH {
            const float t = p[k] * r[k] + tm[k], open = p[k] * scale[k] + shift[k] > 0 ? 0.25f : 0.0f;
            const float du = open * from[k] - a[k] - t * b[k], dv = q[k] - vm[k] - t * e[k];
            out[k] = vg[k] * r[k] * du - scale[k] * r[k] * (t * T[k] + e[k] * du + b[k] * dv);
            to[k] += open * (scale[k] * dv + vg[k] * t + vb[k]);
        }
    }
}

/* A call with a constant width lets the compiler unroll and vectorise the inner loops. */
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

void forward(const float *x, const float *gamma, const float *beta, float *y, float *mean, float *rstd, int64_t n,
             int64_t h, int64_t w, int64_t c, float eps, int threads) {
    const Shape s = {n, h, w, c};
#define CALL(width) forward_block(x + big, gamma + k0, beta + k0, y + tiny, mean + per, rstd + per, &s, eps, width)
    BLOCKS(CALL)
#undef CALL
}

void backward(const float *x, const float *gamma, const float *beta, const float *mean, const float *rstd,
              const float *g, float *dx, float *dgamma, float *dbeta, int64_t n, int64_t h, int64_t w, int64_t c,
              int threads) {
    const Shape s = {n, h, w, c};
#define CALL(width)                                                                                           \
    backward_block(x + big, gamma + k0, beta + k0, mean + per, rstd + per, g + tiny, dx + big, dgamma + per, \
                   dbeta + per, &s, width)
    BLOCKS(CALL)
#undef CALL
}

void double_backward(const float *x, const float *gamma, const float *beta, const float *mean, const float *rstd,
                     const float *g, const float *v, const float *vgamma, const float *vbeta, float *gx, float *gg,
                     float *ggamma, int64_t n, int64_t h, int64_t w, int64_t c, int threads) {
    const Shape s = {n, h, w, c};
#define CALL(width)                                                                                              \
    double_block(x + big, gamma + k0, beta + k0, mean + per, rstd + per, g + tiny, v + big, vgamma + k0, vbeta + k0, \
                 gx + big, gg + tiny, ggamma + per, &s, width)
    BLOCKS(CALL)
#undef CALL
}
