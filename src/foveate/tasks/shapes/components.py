"""Connected pieces of a picture of classes, without a loop over pixels."""

from __future__ import annotations

import numpy as np

__all__ = ["components"]


def components(classes: np.ndarray) -> list[tuple[int, tuple[int, int, int, int], np.ndarray]]:
    """Pieces of one class whose pixels hang together by their sides.

    Rows are cut into runs of one class (in NumPy); only the runs, some dozens, are joined one by
    one.

    Parameters
    ----------
    classes : np.ndarray
        int ``[H, W]``; 0 is the background and makes no pieces.

    Returns
    -------
    list of (class, box, mask)
        The class, the box ``(x0, y0, x1, y1)`` with exclusive ends, and the piece's pixels inside
        that box, bool ``[y1 - y0, x1 - x0]``. In reading order of their first pixels.
    """
    height, width = classes.shape
    starts = np.ones((height, width), bool)
    starts[:, 1:] = classes[:, 1:] != classes[:, :-1]
    run = starts.ravel().cumsum().reshape(height, width) - 1  # [H, W] the run of each pixel
    first = starts.ravel().nonzero()[0]  # [runs] where each begins
    of = classes.ravel()[first]
    same = (classes[1:] == classes[:-1]) & (classes[1:] != 0)
    below, above = run[1:][same], run[:-1][same]
    number = len(first)
    joined = np.unique(above.astype(np.int64) * number + below)

    parent = list(range(number))
    for a, b in zip((joined // number).tolist(), (joined % number).tolist(), strict=True):
        while parent[a] != a:
            a = parent[a] = parent[parent[a]]
        while parent[b] != b:
            b = parent[b] = parent[parent[b]]
        if a != b:
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for index in of.nonzero()[0].tolist():
        root = index
        while parent[root] != root:
            root = parent[root]
        members.setdefault(root, []).append(index)

    length = np.diff(first, append=height * width)
    found = []
    for root, runs in members.items():
        where = np.array(runs)
        rows, x = first[where] // width, first[where] % width
        x0, x1 = int(x.min()), int((x + length[where]).max())
        y0, y1 = int(rows[0]), int(rows[-1]) + 1
        piece = np.zeros(number, bool)
        piece[where] = True
        found.append((int(of[root]), (x0, y0, x1, y1), piece[run[y0:y1, x0:x1]]))
    return found
