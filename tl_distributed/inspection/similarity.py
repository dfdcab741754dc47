"""How alike two representations of the same images are: linear centered kernel alignment (CKA).

Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019), equation 4 and its linear case.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Similarity of two representations; NaN where one of them is the same for every image.

    Attributes:
      cka: Linear CKA, in [0, 1]. With more features than images it is biased upwards: unrelated features do not get 0.
      debiased: The same from the unbiased estimate of HSIC (Song et al. 2012, equation 5; for CKA Nguyen et al. 2021):
        about 0 for unrelated features, so a little below 0 by chance. NaN where the images do not suffice for it.
    """

    cka: float
    debiased: float


def linear_cka(first: np.ndarray, second: np.ndarray) -> Similarity:
    """Compares two representations of n images.

    Nothing larger than the smaller of n x n and features x features is made.

    Args:
      first: `[n, features]` of any kind of number; n is at least 4.
      second: `[n, other features]`.

    Raises:
      ValueError: Not two matrices of as many rows, or fewer than 4 rows.
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 4:
        raise ValueError(f"takes two matrices of the same 4 or more rows, not {first.shape} and {second.shape}")
    first, second = _centred(first), _centred(second)
    if first is None or second is None:
        return Similarity(math.nan, math.nan)
    cross, own_first, own_second = _products(first, second)
    cka = cross / math.sqrt(own_first * own_second)
    squares = [np.square(rows, dtype=np.float64).sum(1) for rows in (first, second)]
    unbiased = _unbiased(cross, *squares)
    scale = _unbiased(own_first, squares[0], squares[0]) * _unbiased(own_second, squares[1], squares[1])
    return Similarity(cka, unbiased / math.sqrt(scale) if scale > 0 else math.nan)


def _centred(rows: np.ndarray) -> np.ndarray | None:
    """Returns float32 columns of mean 0, with a Frobenius norm of 1; `None` where every row is the same."""
    mean = rows.mean(0, dtype=np.float64)
    centred = (rows - mean).astype(np.float32)
    norm = math.sqrt(np.square(centred, dtype=np.float64).sum())
    # What is left of equal rows by rounding is no representation.
    if norm <= 1e-6 * math.sqrt(len(rows)) * float(np.linalg.norm(mean)):
        return None
    return centred / np.float32(norm)


def _products(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Returns the squared Frobenius norms of second' first, first' first and second' second.

    With Gram matrices of the images, K = first first' and L = second second', they are the sums over K*L, K*K, L*L.
    """
    if len(first) <= max(first.shape[1], second.shape[1]):
        left, right = first @ first.T, second @ second.T
        return tuple(float(np.sum(a * b, dtype=np.float64)) for a, b in ((left, right), (left, left), (right, right)))
    pairs = ((second, first), (first, first), (second, second))
    return tuple(float(np.square(a.T @ b, dtype=np.float64).sum()) for a, b in pairs)


def _unbiased(product: float, first_squares: np.ndarray, second_squares: np.ndarray) -> float:
    """Returns the unbiased estimate of HSIC, up to its factor 1 / (n (n - 3)).

    The estimator takes Gram matrices without their diagonals. Rows of K sum to 0, since the columns of the features
    do, so that without the diagonal they sum to its negative; which leaves sums over the diagonals.

    Args:
      product: Sum over K*L.
      first_squares: `[n]`, diagonal of K: the squared norm of each row.
      second_squares: `[n]`, diagonal of L.
    """
    n = len(first_squares)
    diagonals = float(first_squares @ second_squares)
    traces = float(first_squares.sum() * second_squares.sum())
    return product - diagonals + traces / ((n - 1) * (n - 2)) - 2 * diagonals / (n - 2)
