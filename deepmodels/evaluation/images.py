"""How near pictures are to others: each to its own, and all of one set to all of another by their features.

B pictures, H height, W width, C channels, N and M pictures of two sets, D features of a picture.
"""

import math

import numpy as np

from deepmodels.errors import ConfigError, ShapeError

NEIGHBOURS = 3  # the rank of the neighbour that is near


def psnr(images: np.ndarray, references: np.ndarray, peak: float = 1.0) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of each picture in dB, (B,); infinite where the two are the same.

    Args:
      images: (B, H, W, C).
      references: likewise.
      peak: the largest value there can be: 1 or 255.

    Raises:
      ShapeError: the two have different shapes.
    """
    images, references = _pair(images, references)
    error = np.square(images - references).mean((1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(peak**2 / error)


def ssim(images: np.ndarray, references: np.ndarray, peak: float = 1.0) -> np.ndarray:
    """Returns the structural similarity of each picture, (B,), at most 1: the mean over pixels and channels.

    Wang, Bovik, Sheikh & Simoncelli (2004), doi:10.1109/TIP.2003.819861, with its Gaussian window of 11 pixels and a
    standard deviation of 1.5, where it lies within the picture.

    Args:
      images: (B, H, W, C), of 11 pixels or more in height and width.
      references: likewise.
      peak: the largest value there can be: 1 or 255.

    Raises:
      ShapeError: the two have different shapes, or are too small.
    """
    images, references = _pair(images, references)
    if min(images.shape[1:3]) < 11:
        raise ShapeError(f"images: expected 11 pixels or more in height and width, got {images.shape}")
    window = np.exp(-0.5 * np.square(np.arange(-5, 6) / 1.5))
    window /= window.sum()

    def smooth(x: np.ndarray) -> np.ndarray:
        for axis in (1, 2):
            x = np.lib.stride_tricks.sliding_window_view(x, 11, axis) @ window
        return x

    mean, other = smooth(images), smooth(references)
    variance = smooth(images**2) - mean**2
    other_variance = smooth(references**2) - other**2
    covariance = smooth(images * references) - mean * other
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similarity = (2 * mean * other + c1) * (2 * covariance + c2)
    similarity /= (mean**2 + other**2 + c1) * (variance + other_variance + c2)
    return similarity.mean((1, 2, 3))


def bits_per_dimension(nats: float, dimensions: int) -> float:
    """Returns a negative log-likelihood, of a picture in nats, in bits for each of its values."""
    return nats / (dimensions * math.log(2))


def frechet_distance(features: np.ndarray, references: np.ndarray) -> float:
    """Returns the Fréchet distance of two sets of features taken for normal: FID where the features are Inception's.

    Heusel et al. (2017), arXiv:1706.08500, equation 6: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), with unbiased
    covariances, as in the authors' code.

    Args:
      features: (N, D) of the pictures to judge.
      references: (M, D) of the real ones.

    Raises:
      ShapeError: the features aren't of one kind, or there is one picture alone.
    """
    one, other = _features(features, references)
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (one, other)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))[None]) @ vectors.T  # tr (C C')^(1/2) = tr (C^(1/2) C' C^(1/2))^(1/2)
    cross = np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0)
    means = np.square(one.mean(0) - other.mean(0)).sum()
    return float(means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.sqrt(cross).sum())


def kernel_distance(features: np.ndarray, references: np.ndarray) -> float:
    """Returns the squared maximum mean discrepancy with the kernel (x y / D + 1)^3: KID where they are Inception's.

    Binkowski, Sutherland, Arbel & Gretton (2018), arXiv:1801.01401; the unbiased estimate, which may be negative.

    Args:
      features: (N, D) of the pictures to judge.
      references: (M, D) of the real ones.

    Raises:
      ShapeError: the features aren't of one kind, or there is one picture alone.
    """
    one, other = _features(features, references)

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: np.ndarray) -> float:
        table, count = kernel(x, x), len(x)
        return (table.sum() - np.trace(table)) / (count * (count - 1))

    return float(within(one) + within(other) - 2 * kernel(one, other).mean())


def precision_recall(features: np.ndarray, references: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Returns the shares of the pictures among the real ones, and of the real ones among the pictures.

    Kynkäänniemi, Karras, Laine, Lehtinen & Aila (2019), arXiv:1904.06991: a picture is among others if it is no
    further from one of them than that one's neighbour of this rank among its own.

    Args:
      features: (N, D) of the pictures to judge.
      references: (M, D) of the real ones.
      neighbours: the rank.

    Raises:
      ShapeError: the features aren't of one kind, or there is one picture alone.
      ConfigError: there aren't as many neighbours.
    """
    one, other = _features(features, references)
    if not 1 <= neighbours < min(len(one), len(other)):
        raise ConfigError(f"neighbours: expected 1 to {min(len(one), len(other)) - 1}, got {neighbours}")

    def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None] - 2 * x @ y.T

    def share(x: np.ndarray, of: np.ndarray) -> float:
        own = distances(of, of)
        np.fill_diagonal(own, -np.inf)  # its own nearest
        radius = np.partition(own, neighbours, axis=1)[:, neighbours]
        return float((distances(x, of) <= radius[None]).any(1).mean())

    return share(one, other), share(other, one)


def recognition(probabilities: np.ndarray) -> dict[str, float]:
    """Returns "recognised", how sure a classifier is, and "classes", as of how many classes it takes pictures.

    The mean of the largest probability, and the exponential of the entropy of the mean prediction, 1 to K. The two
    sides of Salimans et al. (2016), arXiv:1606.03498, section 4, whose score is one number for both.

    Args:
      probabilities: (N, K) of N pictures.
    """
    probabilities = np.asarray(probabilities, np.float64)
    mean = probabilities.mean(0)
    entropy = -(mean * np.log(mean, out=np.zeros_like(mean), where=mean > 0)).sum()
    return {"recognised": float(probabilities.max(1).mean()), "classes": float(np.exp(entropy))}


def _pair(images: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    images, references = np.asarray(images, np.float64), np.asarray(references, np.float64)
    if images.ndim != 4 or images.shape != references.shape:
        raise ShapeError(
            f"images, references: expected one shape (batch, height, width, channels), got {images.shape} and "
            f"{references.shape}"
        )
    return images, references


def _features(features: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(features, np.float64), np.asarray(references, np.float64)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise ShapeError(
            f"features, references: expected (N, D) and (M, D), N and M of 2 or more, got {one.shape} and {other.shape}"
        )
    return one, other
