"""LogME: how probable the labels are under Bayesian linear models of frozen features, at their best hyper-parameters.

You, Liu, Wang and Long, LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021
(arXiv:2102.11005); its fixed-point iteration: You, Liu, Zhang, Wang, Jordan and Long, Ranking and Tuning Pre-trained
Models, JMLR 23, 2022 (arXiv:2110.10545), algorithm 3.
"""

import numpy as np

_MOST_ITERATIONS = 200
_TOLERANCE = 1e-6  # relative change of alpha / beta at which it has converged
_LEAST_SHARE = 1e-12  # of the largest eigenvalue: smaller ones are rounding


def log_maximum_evidence(features: np.ndarray, labels: np.ndarray, num_classes: int) -> float:
    """Returns the mean over classes of the logarithm of the maximum evidence, per image.

    For each class y is 1 on its images and 0 on the others, and y = F w + noise with w ~ N(0, 1 / alpha) and noise ~
    N(0, 1 / beta): the evidence is the density of y, which alpha and beta maximise. It does not depend on the scale of
    the features.

    Args:
      features: `[images, features]`, finite.
      labels: `[images] int`, of which a class may be absent: it is left out of the mean.
      num_classes: Number of classes.
    """
    rows = np.asarray(features, np.float64)
    count, size = rows.shape
    targets = np.eye(num_classes)[labels][:, np.unique(labels)]
    # The eigenvectors of the smaller Gram matrix; those of the other follow, and no SVD of all rows is needed.
    if size <= count:
        eigenvalues, vectors = np.linalg.eigh(rows.T @ rows)
        eigenvalues, vectors = _kept(eigenvalues, vectors)
        projected = (vectors.T @ (rows.T @ targets)) / np.sqrt(eigenvalues)[:, None]
    else:
        eigenvalues, vectors = _kept(*np.linalg.eigh(rows @ rows.T))
        projected = vectors.T @ targets
    squared = np.square(projected)
    outside = np.maximum(targets.sum(0) - squared.sum(0), 0.0)  # of |y|², what no weights can reach
    return float(np.mean(_maximum_log_evidence(eigenvalues[:, None], squared, outside, count) / count))


def _kept(eigenvalues: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kept = eigenvalues > _LEAST_SHARE * max(eigenvalues[-1], np.finfo(np.float64).tiny)
    return eigenvalues[kept], vectors[:, kept]


def _maximum_log_evidence(eigenvalues: np.ndarray, squared: np.ndarray, outside: np.ndarray, count: int) -> np.ndarray:
    """Returns the logarithm of the maximum evidence of each class.

    Args:
      eigenvalues: `[rank, 1]`, of F F^T, positive.
      squared: `[rank, classes]`, squares of y's coordinates along its eigenvectors.
      outside: `[classes]`, the square of what of y lies outside of them.
      count: Of images.
    """
    smallest = np.finfo(np.float64).tiny
    ratio = np.full(outside.shape, float(eigenvalues.mean()) if eigenvalues.size else 1.0)  # alpha / beta
    for _ in range(_MOST_ITERATIONS):
        shrunk = ratio + eigenvalues
        effective = (eigenvalues / shrunk).sum(0)
        weights = (eigenvalues * squared / shrunk**2).sum(0)  # |m|² of the posterior mean m
        residual = (squared * (ratio / shrunk) ** 2).sum(0) + outside  # |y - F m|²
        alpha = effective / np.maximum(weights, smallest)
        left = count - len(eigenvalues) + (ratio / shrunk).sum(0)  # count - effective, without its rounding
        beta = left / np.maximum(residual, smallest * count)
        before, ratio = ratio, np.clip(alpha / beta, 1e-30, 1e30)
        if np.all(np.abs(ratio - before) <= _TOLERANCE * before):
            break
    # The other eigenvalues are 0, and add log(alpha) to both of the first two terms.
    return (
        (len(eigenvalues) * np.log(alpha) - np.log(alpha + beta * eigenvalues).sum(0)) / 2
        + count * np.log(beta / (2 * np.pi)) / 2
        - beta * residual / 2
        - alpha * weights / 2
    )
