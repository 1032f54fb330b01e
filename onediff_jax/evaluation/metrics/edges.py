"""Edges by the BSDS500 benchmark: precision and recall of pixels matched within a distance.

BIDS/BSDS500, bench/benchmarks. The matching is a maximum one (Hopcroft–Karp), where the official
code solves an assignment with random outliers and is a few pixels of hundreds below it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

THRESHOLDS = np.linspace(0.01, 0.99, 99)


def edge_scores(
    predictions: Sequence[np.ndarray],
    truths: Sequence[Sequence[np.ndarray]],
    *,
    max_dist: float = 0.0075,
    thin: bool = True,
) -> dict[str, float]:
    """ODS, OIS and AP of a set of edge maps.

    Args:
      predictions: (H, W) uint8 each, edge strength.
      truths: per picture the annotators' maps, (H, W) bool each.
      max_dist: how far a match may be, in units of the picture's diagonal.
      thin: whether predictions are thinned to one pixel at every threshold.

    Returns ods (best F of one threshold for the set), ois (of the best threshold of each picture)
    and ap.

    Raises ValueError for sizes that differ.
    """
    counts = [
        edge_counts(prediction, maps, max_dist=max_dist, thin=thin)
        for prediction, maps in zip(predictions, truths, strict=True)
    ]
    return scores_from_counts(np.reshape(counts, (-1, len(THRESHOLDS), 4)))


def edge_counts(
    prediction: np.ndarray,
    truths: Sequence[np.ndarray],
    *,
    max_dist: float = 0.0075,
    thin: bool = True,
) -> np.ndarray:
    """(99, 4) of one picture: true pixels found and in all, predicted pixels right and in all."""
    from skimage.morphology import thin as thinned

    prediction = np.asarray(prediction)
    truths = [np.asarray(truth, bool) for truth in truths]
    if wrong := [t.shape for t in truths if t.shape != prediction.shape]:
        raise ValueError(f"{prediction.shape=} and truths {wrong} must be of one size")
    reach = max_dist * np.hypot(*prediction.shape)
    found, known = [], {}
    strength = prediction / 255
    for threshold in THRESHOLDS:
        edges = strength >= threshold
        key = np.count_nonzero(edges)  # edges of a higher threshold are a subset
        if key not in known:
            known[key] = _counts(thinned(edges) if thin else edges, truths, reach)
        found.append(known[key])
    return np.array(found, np.int64)


def _counts(edges: np.ndarray, truths: Sequence[np.ndarray], reach: float) -> tuple[int, ...]:
    hit = np.zeros(np.count_nonzero(edges), bool)
    recalled = 0
    for truth in truths:
        partner = _match(edges, truth, reach)
        hit |= partner
        recalled += int(np.count_nonzero(partner))
    wanted = sum(int(np.count_nonzero(t)) for t in truths)
    return recalled, wanted, int(np.count_nonzero(hit)), len(hit)


def matched_pixels(edges: np.ndarray, truth: np.ndarray, *, max_dist: float = 0.0075) -> int:
    """How many pixels of two maps (H, W) bool a one-to-one matching within a distance pairs."""
    reach = max(1.0, max_dist * float(np.hypot(*truth.shape)))  # of tiny pictures one pixel
    return int(np.count_nonzero(_match(edges, truth, reach)))


def _match(edges: np.ndarray, truth: np.ndarray, reach: float) -> np.ndarray:
    """Which of the edge pixels (in order) a one-to-one matching pairs with a true pixel."""
    places = np.argwhere(truth)
    number = np.count_nonzero(edges)
    if not number or not len(places):
        return np.zeros(number, bool)
    radius = int(np.floor(reach))
    index = np.full(np.add(edges.shape, 2 * radius), -1)
    index[radius : radius + edges.shape[0], radius : radius + edges.shape[1]][edges] = np.arange(
        number
    )
    steps = np.mgrid[-radius : radius + 1, -radius : radius + 1].reshape(2, -1).T
    steps = steps[np.hypot(*steps.T) <= reach]
    near = index[tuple((places[:, None] + steps[None] + radius).transpose(2, 0, 1))]
    rows, columns = np.nonzero(near >= 0)
    graph = csr_array(
        (np.ones(len(rows), np.int8), (rows, near[rows, columns])), (len(places), number)
    )
    partner = maximum_bipartite_matching(graph, perm_type="column")
    right = np.zeros(number, bool)
    right[partner[partner >= 0]] = True
    return right


def scores_from_counts(counts: np.ndarray) -> dict[str, float]:
    """`edge_scores` from the counts (pictures, 99, 4) of every picture."""
    if not len(counts):
        return dict.fromkeys(("ods", "ois", "ap"), float("nan"))
    recall, precision = _rates(counts.sum(0))
    share = np.linspace(0, 1, 100)[:, None]
    between = [v[1:] * share + v[:-1] * (1 - share) for v in (recall, precision)]
    each = _f_measure(*_rates(counts))
    best = counts[np.arange(len(counts)), each.argmax(1)].sum(0)
    return {
        "ods": float(max(_f_measure(recall[0], precision[0]), _f_measure(*between).max())),
        "ois": float(_f_measure(*_rates(best))),
        "ap": _area(recall, precision),
    }


def _rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision of counts (…, 4); 0 where nothing was to be found."""
    counts = np.asarray(counts, np.float64)
    recall, precision = (counts[..., i] / np.maximum(counts[..., i + 1], 1) for i in (0, 2))
    return recall, precision


def _f_measure(recall, precision):
    total = recall + precision
    return 2 * recall * precision / np.where(total == 0, 1, total)


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Precision over recall 0, 0.01, … 1; no precision beyond the recalls that were reached."""
    last = len(recall) - 1 - np.unique(recall[::-1], return_index=True)[1]
    if len(last) < 2:
        return 0.0
    at = np.arange(101) / 100
    return float(np.interp(at, recall[last], precision[last], left=0, right=0).sum() * 0.01)
