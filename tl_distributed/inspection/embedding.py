"""Features of many dimensions in two: PCA and t-SNE."""

import dataclasses

import numpy as np

_COMPONENTS = 50  # t-SNE starts from these (van der Maaten & Hinton 2008 take 30); what they leave out is mostly noise
_PERPLEXITY = 30.0
_NEIGHBOURS = 5
FEWEST_IMAGES = _NEIGHBOURS + 1


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Features of n images in two dimensions.

    Attributes:
      pca: `[n, 2]`.
      explained: Share of the variance along each of the two axes of `pca`.
      tsne: `[n, 2]`.
      neighbour_accuracy: Share of the images whose class is that of most of their 5 nearest others, in all dimensions.
    """

    pca: np.ndarray
    explained: tuple[float, float]
    tsne: np.ndarray
    neighbour_accuracy: float


def embed(features: np.ndarray, labels: np.ndarray, *, seed: int) -> Embedding:
    """Lays features out in two dimensions.

    Args:
      features: `[n, dimensions] float32`; n is at least `FEWEST_IMAGES`.
      labels: `[n]` integers.
      seed: Of PCA's and t-SNE's random numbers.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    centred = features - features.mean(0)
    if not np.any(centred):  # nothing to lay out, and PCA would divide by 0
        points = np.zeros((len(features), 2))
        return Embedding(points, (0.0, 0.0), points, _neighbour_accuracy(features, labels))
    components = min(_COMPONENTS, len(features) - 1, features.shape[1])
    model = PCA(components, random_state=seed)
    reduced = np.pad(model.fit_transform(features), ((0, 0), (0, max(0, 2 - components))))
    explained = [*model.explained_variance_ratio_.tolist(), 0.0][:2]
    tsne = TSNE(2, perplexity=min(_PERPLEXITY, (len(features) - 1) / 3), init="pca", random_state=seed)
    # Its threads wait for each other by spinning: on cores that something else uses too it took 7 times as long.
    with threadpool_limits(1):
        points = tsne.fit_transform(reduced)
    return Embedding(reduced[:, :2], tuple(explained), points, _neighbour_accuracy(features, labels))


def _neighbour_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(features)
    neighbours = labels[index.kneighbors(return_distance=False)]  # without the image itself
    votes = (neighbours[:, :, None] == np.arange(labels.max() + 1)).sum(1)
    return float(np.mean(votes.argmax(1) == labels))
