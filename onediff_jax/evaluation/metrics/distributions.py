"""Distances between two sets of features, as torch-fidelity computes them: FID and KID."""

import numpy as np


def frechet_distance(features1: np.ndarray, features2: np.ndarray) -> float:
    """The Fréchet distance of two sets, (n, d) and (m, d), as Gaussians; FID with Inception's.

    Raises ValueError for other shapes or fewer than two samples.
    """
    first, second = _pair(features1, features2)
    sigma1, sigma2 = (np.atleast_2d(np.cov(f, rowvar=False)) for f in (first, second))
    shift = first.mean(0) - second.mean(0)
    roots = np.real(np.sqrt(np.linalg.eigvals(sigma1 @ sigma2).astype(np.complex128))).sum()
    return float(shift @ shift + np.trace(sigma1) + np.trace(sigma2) - 2 * roots)


def kernel_distance(features1: np.ndarray, features2: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy, kernel (x·y/d + 1)³, of all samples; KID.

    It may be below zero. Raises ValueError for other shapes or fewer than two samples.
    """
    first, second = _pair(features1, features2)

    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(first) + within(second) - 2 * kernel(first, second).mean())


def _pair(features1, features2) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.float64(features1), np.float64(features2)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features {first.shape} and {second.shape} must be (n, d) and (m, d)")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"{len(first)} and {len(second)} samples: two of each are needed")
    return first, second
