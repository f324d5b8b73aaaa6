"""An input that is a file."""

from __future__ import annotations


class File(str):
    """The path of a file whose content is what counts: as an argument of a node, or in `depends`.

    Parameters
    ----------
    path : str
        The file. A function that is given it gets a `str`.

    Notes
    -----
    The file is read when a run is planned, and again when the node starts if
    its stamp is another one by then: a difference is an `InputChanged`. In one
    process it is read once as long as its stamp (time, size, inode) stays.
    A file that is not there when the run is planned, and a folder, is unknown.
    Its name does not count.

    Examples
    --------
    >>> from functionfuse import File, workflow
    >>> @workflow
    ... def lines(path):
    ...     with open(path) as file:
    ...         return len(file.readlines())
    >>> lines(File("in.csv")).args
    ('in.csv',)
    """

    __slots__ = ()
