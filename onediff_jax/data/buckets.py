"""Aspect buckets: pictures of about equal token count in several shapes."""

import functools

ASPECTS = {
    "1:1": 1.0,
    "4:3": 4 / 3,
    "3:4": 3 / 4,
    "3:2": 3 / 2,
    "2:3": 2 / 3,
    "16:9": 16 / 9,
    "9:16": 9 / 16,
}
_UNIT = 16  # pixels per token side: 8 per latent, 2 latents per token


@functools.cache
def bucket_size(aspect: str, tokens: int) -> tuple[int, int]:
    """(height, width) in pixels of an aspect (width:height) that fills at most `tokens` tokens.

    Of the shapes that use at least 80 % of the tokens the best match wins, the fuller one on a tie.
    Raises ValueError for an unknown aspect (lists the choices) or a token count below 1.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"unknown {aspect=}; choose from {list(ASPECTS)}")
    if tokens < 1:
        raise ValueError(f"{tokens=} must be positive")
    best = None
    for rows in range(1, tokens + 1):
        for columns in {tokens // rows, max(1, round(rows * ASPECTS[aspect]))}:
            used = rows * columns
            if used > tokens or (used < 0.8 * tokens and tokens > 4):
                continue
            ratio = columns / rows / ASPECTS[aspect]
            score = (round(max(ratio, 1 / ratio), 6), -used)
            if best is None or score < best[0]:
                best = (score, rows, columns)
    assert best is not None  # one row and one column are always tried
    return best[1] * _UNIT, best[2] * _UNIT


def nearest_aspect(height: int, width: int, aspects: tuple[str, ...]) -> str:
    """The aspect of `aspects` closest to a picture's own, by ratio."""
    ratio = width / height
    return min(aspects, key=lambda a: max(ratio / ASPECTS[a], ASPECTS[a] / ratio))
