"""Numbers of bytes and seconds in words."""


def in_bytes(count: float) -> str:
    """Bytes in a unit that suits.

    >>> in_bytes(307200), in_bytes(640)
    ('300 KiB', '640 B')
    """
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count / size < 1000 else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def in_time(seconds: float) -> str:
    """Seconds in a unit that suits.

    >>> in_time(0.0), in_time(59.4), in_time(1500.0)
    ('0 s', '59 s', '25 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
