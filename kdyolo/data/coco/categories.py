"""Categories of all splits of a COCO data set as one list, and those that are converted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdyolo.data.coco.reading.annotations import Annotations
from kdyolo.errors import ConfigError, DatasetError
from kdyolo.utils.text import did_you_mean, quoted

_MOST_NAMED = 5


def numbered_apart(data: Sequence[Annotations]) -> bool:
    """Whether splits number their categories each for itself, so that only the names tell which are the same.

    FiftyOne and labelme2coco number the classes that occur in a file. A name with one id in a split and another in the
    next shows that; where every name that splits share has one id, ids mean something, and two names of one id are an
    error.
    """
    ids_of: dict[str, list[set[int]]] = {}
    for of_split in data:
        in_file: dict[str, set[int]] = {}
        for key, name in of_split.categories.items():
            in_file.setdefault(name, set()).add(key)
        for name, ids in in_file.items():
            ids_of.setdefault(name, []).append(ids)
    return any(not set.intersection(*found) for found in ids_of.values())


def only_in_some(data: Sequence[Annotations]) -> list[str]:
    """Warnings about splits that were matched by the names of their categories."""
    names = {of_split.path: {*of_split.categories.values()} for of_split in data}
    warnings = ["the splits number their categories differently: matched by name, with new ids in the annotation files"]
    for path, own in names.items():
        missing = sorted(set().union(*names.values()) - own)
        if missing:
            shown = ", ".join(map(quoted, missing[:_MOST_NAMED])) + (", …" if len(missing) > _MOST_NAMED else "")
            warnings.append(f"{path} has no category {shown}, which another split has")
    return warnings


def merge_categories(data: Sequence[Annotations], keep_empty: bool) -> tuple[dict[int, str], list[str]]:
    """Category id → name over all splits, in ascending order of the ids, which is the order of the classes.

    Args:
        data: The records of each split.
        keep_empty: Whether rows that seem to be no classes stay: a supercategory's, or a second one of a name, without
            any annotation in any split.

    Returns:
        The categories, and notes on what was left out.

    Raises:
        DatasetError: Two categories have one id or one name.
    """
    dropped = frozenset[int]() if keep_empty else _rows_without_class(data)
    names: dict[int, str] = {}
    for of_split in data:
        for category_id, name in of_split.categories.items():
            known = names.setdefault(category_id, name)
            if known != name:
                raise DatasetError(
                    f"{of_split.path}: category id {category_id} is {name!r}, but {known!r} in another split. "
                    "All splits must agree: correct the categories, or convert the splits separately."
                )
    kept = {key: name for key, name in names.items() if key not in dropped}
    if not keep_empty:
        _refuse_repeated_names(data, kept)
    return dict(sorted(kept.items())), _notes({key: names[key] for key in sorted(dropped)})


def _rows_without_class(data: Sequence[Annotations]) -> frozenset[int]:
    """Ids of categories that no split uses and that look like no class wherever they stand."""
    listed = {key for of_split in data for key in of_split.categories}
    empty = {key for key in listed if all(key in d.empty_rows for d in data if key in d.categories)}
    # Of several empty rows of one name, the last one is the class: Roboflow's own row stands first.
    named: dict[str, list[int]] = {}
    for key in sorted(listed):
        named.setdefault(next(d.categories[key] for d in data if key in d.categories), []).append(key)
    saved = {keys[-1] for keys in named.values() if len(keys) > 1 and empty.issuperset(keys)}
    return frozenset(empty - saved)


def _refuse_repeated_names(data: Sequence[Annotations], kept: Mapping[int, str]) -> None:
    id_of: dict[str, int] = {}
    for of_split in data:
        in_file = [key for key in of_split.categories if key in kept]
        for category_id in in_file:
            name = kept[category_id]
            other = id_of.setdefault(name, category_id)
            if other != category_id and other in in_file:
                index = list(of_split.categories).index(category_id)
                raise DatasetError(
                    f"{of_split.path}: category {index} (id {category_id}): duplicate category name: {name!r} is that "
                    f"of id {other} too, and both have annotations. Correct the record."
                )
            if other != category_id:
                raise DatasetError(
                    f"{of_split.path}: category {name!r} has id {category_id}, but {other} in another split. All "
                    "splits must agree: correct the categories, or convert the splits separately."
                )


def _notes(dropped: Mapping[int, str]) -> list[str]:
    if not dropped:
        return []
    shown = ", ".join(f"{quoted(name)} (id {key})" for key, name in list(dropped.items())[:_MOST_NAMED])
    return [
        f"no class for {shown}{', …' if len(dropped) > _MOST_NAMED else ''}: no annotation uses the row, which is the "
        "supercategory or has the name of another one; --keep-empty-categories keeps it"
    ]


def choose_categories(categories: Mapping[int, str], classes: Sequence[str]) -> dict[int, str]:
    """The categories to convert: those with these names, or all.

    Raises:
        ConfigError: No category has such a name; all such names at once.
    """
    mistakes = []
    for name in classes:
        if name not in categories.values():
            names = list(categories.values())
            hint = did_you_mean(name, names) or f" There are {', '.join(names[:10])}{'…' if len(names) > 10 else '.'}"
            mistakes.append(f"no category is called {name!r}.{hint}")
    if mistakes:
        raise ConfigError(mistakes)
    return {key: name for key, name in categories.items() if name in classes} if classes else dict(categories)
