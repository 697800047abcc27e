"""Papers of the user's taken out of the store."""

from __future__ import annotations

from foveate.catalog.database import Database, database
from foveate.errors import FoveateError

__all__ = ["remove"]


def remove(*slugs: str, store: Database | None = None) -> list[str]:
    """Take papers that the user added out of the store: all that are named, or none.

    What a file brought to a shipped paper stays. A paper that is added again is a new one.

    Parameters
    ----------
    *slugs : str
        At least one.
    store : Database, optional
        Default: the user's.

    Returns
    -------
    list of str
        The slugs, each once.

    Raises
    ------
    FoveateError
        If none is given, one is no slug of the store or one is shipped with foveate, or the store
        is locked for too long or cannot be written.
    """
    if not slugs:
        raise FoveateError("remove() takes the slugs of papers; none was given")
    once = list(dict.fromkeys(slugs))
    with (store or database()).write() as db:
        for slug in once:
            row = db.execute("SELECT shipped FROM papers WHERE slug = ?", (slug,)).fetchone()
            if row is None:
                raise FoveateError(
                    f"no paper is called {slug!r}; nothing was removed. `foveate papers --mine` "
                    "lists yours"
                )
            if row["shipped"]:
                raise FoveateError(
                    f"{slug!r} is shipped with foveate and stays; only papers that you added can "
                    "be removed, and nothing was. `foveate papers --mine` lists them"
                )
            db.execute("DELETE FROM papers WHERE slug = ?", (slug,))
    return once
