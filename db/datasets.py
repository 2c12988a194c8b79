"""Data sets in the store: imported in one transaction, browsed by keyset, streamed out again in file order."""

from __future__ import annotations

import builtins
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, select

from db import schema
from db.blobs import Blobs
from db.bulk import batched, tuples, without_gc
from db.codec import BoxRow, Firsts, box_of, pack, source_id_in, source_id_out, unpack
from db.database import Database
from db.dialects import is_postgres, write_rows
from db.document import BoxRows, Document, Stored, nowhere
from db.errors import BadDataset, NotFound, WinnowError
from db.records import Box, Category, Dataset, Fault, Image, Phrase

Progress = Callable[[int, int], None]
CHUNK = 2000
PAGE = 5000  # boxes of an export
BULK = 4000  # rows handed to the driver at once


class Datasets:
    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._db, self._blobs = database, blobs
        self._histograms: dict[tuple[int, float, str | None], builtins.list[tuple[Category, int, int]]] = {}

    # Import

    def import_document(
        self, document: Document, name: str, *, skip_bad: bool = False, progress: Progress | None = None
    ) -> Dataset:
        """Store a document under a new name, all of it or nothing. Ids become `largest id in use + 1 + ordinal`.

        Raises BadDataset with every fault, unless `skip_bad`, which imports the good items and puts the faults on the
        quarantine list (an image with a fault of its own takes its boxes and phrases along), and when no image is good;
        WinnowError when the name is taken.
        """
        if document.faults and not skip_bad:
            raise BadDataset(document.faults)
        if not name.strip():
            raise WinnowError("A data set needs a name, so that it can be found again.")
        with self._db.read() as connection:
            _refuse_taken(connection, name)  # before the work; and again when nobody else can take it
        digests = self._put_files(document, progress)
        with without_gc(), self._db.bulk() as connection:
            _refuse_taken(connection, name)
            dataset_id = _next_id(connection, schema.dataset)
            counts = _insert(connection, document, dataset_id, digests)
            if not counts["images"]:
                raise BadDataset(
                    document.faults
                    or [Fault(file=name, item="the data set", seen="no images", expected="at least one image")]
                )
            row = {"id": dataset_id, "name": name, "format": document.format, "created_at": time.time()}
            _many(connection, schema.quarantine, _quarantine_rows(connection, document.faults, dataset_id))
            connection.execute(schema.dataset.update().where(schema.dataset.c.id == dataset_id).values(**row, **counts))
        return self.get(dataset_id)

    def _put_files(self, document: Document, progress: Progress | None) -> dict[int, str]:
        """Digest by image ordinal. Blobs left by an import that fails afterwards are harmless."""
        digests: dict[int, str] = {}
        if document.file_of is nowhere:
            return digests
        total = sum(1 for _ in document.images()) if progress is not None else 0
        for number, image in enumerate(document.images(), 1):
            path = document.file_of(image)
            if path is not None:
                digests[image.id] = self._blobs.put(path.read_bytes())
            if progress is not None:
                progress(number, total)
        return digests

    def delete(self, dataset_id: int) -> None:
        """Remove a data set with its candidates and verdicts. Blobs stay, since others may share them."""
        self.get(dataset_id)
        with self._db.write() as connection:
            connection.execute(schema.dataset.delete().where(schema.dataset.c.id == dataset_id))

    # Browse

    def list(self) -> builtins.list[Dataset]:
        with self._db.read() as connection:
            return [_dataset(row) for row in connection.execute(select(schema.dataset).order_by(schema.dataset.c.id))]

    def get(self, name_or_id: str | int) -> Dataset:
        column = schema.dataset.c.id if isinstance(name_or_id, int) else schema.dataset.c.name
        with self._db.read() as connection:
            row = connection.execute(select(schema.dataset).where(column == name_or_id)).one_or_none()
        if row is None:
            raise NotFound("data set", name_or_id, [dataset.name for dataset in self.list()])
        return _dataset(row)

    def faults(self, dataset_id: int) -> builtins.list[Fault]:
        """The quarantine list: what was left out when the data set was imported."""
        table = schema.quarantine.c
        query = select(table.file, table.item, table.seen, table.expected).where(table.dataset_id == dataset_id)
        with self._db.read() as connection:
            return [Fault(**row._mapping) for row in connection.execute(query.order_by(table.id))]

    def categories(self, dataset_id: int) -> builtins.list[Category]:
        table = schema.category
        with self._db.read() as connection:
            rows = connection.execute(select(table).where(table.c.dataset_id == dataset_id).order_by(table.c.id))
            return [_category(row) for row in rows]

    def splits(self, dataset_id: int) -> dict[str, int]:
        """Images by split, in the order in which the splits appear."""
        c = schema.image.c
        query = (
            select(c.split, func.count()).where(c.dataset_id == dataset_id).group_by(c.split).order_by(func.min(c.id))
        )
        with self._db.read() as connection:
            return {split: count for split, count in connection.execute(query)}

    def class_histogram(self, dataset_id: int, split: str | None = None) -> builtins.list[tuple[Category, int, int]]:
        """(category, boxes, images) for every category, most boxes first. The boxes of a data set never change, so they are
        counted once."""
        dataset = self.get(dataset_id)
        key = (dataset_id, dataset.created_at, split)  # ids of deleted data sets are given again
        if key not in self._histograms:
            self._histograms[key] = self._counted(dataset_id, split)
        return builtins.list(self._histograms[key])

    def _counted(self, dataset_id: int, split: str | None) -> builtins.list[tuple[Category, int, int]]:
        box, image, category = schema.box.c, schema.image.c, schema.category.c

        def of_class(what: Any) -> Any:  # class by class, the index `box_category` has all there is to know in order
            query = select(what).where(box.category_id == category.id)
            if split is not None:
                query = query.join_from(schema.box, schema.image, image.id == box.image_id).where(image.split == split)
            return query.correlate(schema.category).scalar_subquery()

        query = select(category.id, of_class(func.count(box.image_id)), of_class(func.count(box.image_id.distinct())))
        with self._db.read() as connection:
            rows = connection.execute(query.where(category.dataset_id == dataset_id))
            found = {key: (boxes, images) for key, boxes, images in rows}
        counted = [(category, *found.get(category.id, (0, 0))) for category in self.categories(dataset_id)]
        return sorted(counted, key=lambda entry: -entry[1])

    def images(
        self,
        dataset_id: int,
        *,
        split: str | None = None,
        category_id: int | None = None,
        after: int = 0,
        limit: int = 50,
    ) -> builtins.list[Image]:
        """The next images by id; of a split, or with at least one box of a category."""
        c = schema.image.c
        query = select(schema.image).where(c.dataset_id == dataset_id, c.id > after).order_by(c.id).limit(limit)
        if split is not None:
            query = query.where(c.split == split)
        if category_id is not None:
            box = schema.box.c
            query = query.where(select(box.id).where(box.image_id == c.id, box.category_id == category_id).exists())
        with self._db.read() as connection:
            return builtins.list(map(_image, tuples(connection, query)))

    def image_ids(self, dataset_id: int, split: str | None = None) -> builtins.list[int]:
        """The ids of all images, ascending; of one split when it is named."""
        c = schema.image.c
        query = select(c.id).where(c.dataset_id == dataset_id).order_by(c.id)
        if split is not None:
            query = query.where(c.split == split)
        with self._db.read() as connection:
            return [image_id for (image_id,) in tuples(connection, query)]

    def last_ids(self, dataset_id: int) -> dict[str, int]:
        """The largest ids in use in a data set, of "image", "box" and "phrase"; 0 for what it has none of."""
        with self._db.read() as connection:
            return {
                table.name: connection.execute(_of_dataset(select(func.max(table.c.id)), table, dataset_id)).scalar()
                or 0
                for table in (schema.image, schema.box, schema.phrase)
            }

    def image(self, image_id: int) -> Image:
        return _image(tuple(self._one(schema.image, "image", image_id)))

    def images_of(self, image_ids: Sequence[int]) -> dict[int, Image]:
        """Images by id; those that are gone are left out."""
        found: dict[int, Image] = {}
        with self._db.read() as connection:
            for part in batched(image_ids, CHUNK):
                rows = tuples(connection, select(schema.image).where(schema.image.c.id.in_(part)))
                found |= {row[0]: _image(row) for row in rows}
        return found

    def box(self, box_id: int) -> Box:
        return box_of(tuple(self._one(schema.box, "box", box_id)))

    def phrase(self, phrase_id: int) -> Phrase:
        row = self._one(schema.phrase, "phrase", phrase_id)
        return next(phrase for phrase in self.phrases_of([row.image_id])[row.image_id] if phrase.id == phrase_id)

    def boxes_of(self, image_ids: Sequence[int]) -> dict[int, builtins.list[Box]]:
        """Boxes by image id, in file order; an image without boxes has an empty list."""
        c = schema.box.c
        found: dict[int, builtins.list[Box]] = {image_id: [] for image_id in image_ids}
        with self._db.read() as connection:
            for part in batched(found, CHUNK):
                for row in tuples(connection, select(schema.box).where(c.image_id.in_(part)).order_by(c.id)):
                    found[row[1]].append(box_of(row))
        return found

    def phrases_of(self, image_ids: Sequence[int]) -> dict[int, builtins.list[Phrase]]:
        """Captions and phrases by image id, in file order; an image without any has an empty list."""
        c, link = schema.phrase.c, schema.phrase_box.c
        found: dict[int, builtins.list[Phrase]] = {image_id: [] for image_id in image_ids}
        links = select(link.phrase_id, link.box_id).join(schema.phrase, c.id == link.phrase_id).order_by(link.box_id)
        with self._db.read() as connection:
            for part in batched(found, CHUNK):
                boxes: dict[int, builtins.list[int]] = {}
                for phrase_id, box_id in connection.execute(links.where(c.image_id.in_(part))):
                    boxes.setdefault(phrase_id, []).append(box_id)
                for row in connection.execute(select(schema.phrase).where(c.image_id.in_(part)).order_by(c.id)):
                    found[row.image_id].append(_phrase(row, tuple(boxes.get(row.id, ()))))
        return found

    def _one(self, table: Any, what: str, row_id: int) -> Row[Any]:
        with self._db.read() as connection:
            row = connection.execute(select(table).where(table.c.id == row_id)).one_or_none()
        if row is None:
            raise NotFound(what, row_id)
        return row

    # Export

    def document(self, dataset_id: int, split: str | None = None) -> Document:
        """The data set, or one split of it, as something a format can write; read in chunks: memory does not grow with
        its size, and no transaction is open between two of them."""
        dataset = self.get(dataset_id)
        return Document(
            format=dataset.format,
            categories=self.categories(dataset_id),
            info=dataset.info,
            images=lambda: self._all_images(dataset_id, split),
            boxes=BoxRows(lambda first: chain.from_iterable(self._box_pages(dataset_id, split)), self.boxes_of),
            phrases=Stored(lambda: self._all_phrases(dataset_id, split) if dataset.phrases else (), self.phrases_of),
            file_of=lambda image: self._blobs.path(image.digest) if image.digest else None,
        )

    def _all_images(self, dataset_id: int, split: str | None) -> Iterator[Image]:
        after = 0
        while page := self.images(dataset_id, split=split, after=after, limit=CHUNK):
            yield from page
            after = page[-1].id

    def _all_phrases(self, dataset_id: int, split: str | None) -> Iterator[Phrase]:
        for ids in batched(self.image_ids(dataset_id, split), 500):
            yield from _flat(self.phrases_of(ids))

    def _box_pages(self, dataset_id: int, split: str | None) -> Iterator[builtins.list[BoxRow]]:
        """In file order, which is the order of ids; those of a data set are all that lie between its first and its last."""
        c, image = schema.box.c, schema.image.c
        mine = [image.dataset_id == dataset_id] + ([] if split is None else [image.split == split])
        joined = schema.box.join(schema.image, image.id == c.image_id)
        with self._db.read() as connection:
            first, last = connection.execute(
                select(func.min(c.id), func.max(c.id)).select_from(joined).where(*mine)
            ).one()
        query = select(schema.box)
        if split is not None:
            query = query.select_from(joined).where(*mine)
        page = query.where(c.id > bindparam("after"), c.id <= bindparam("last")).order_by(c.id).limit(PAGE)
        after = (first or 0) - 1
        while first is not None and after < last:
            with self._db.read() as connection:
                rows = tuples(connection, page, {"after": after, "last": last})
            yield rows
            after = rows[-1][0]


def _of_dataset(query: Select[Any], table: Any, dataset_id: int) -> Select[Any]:
    image = schema.image.c
    joined = query if table is schema.image else query.join_from(table, schema.image, image.id == table.c.image_id)
    return joined.where(image.dataset_id == dataset_id)


def _flat(groups: dict[int, list[Phrase]]) -> Iterator[Phrase]:
    for phrases in groups.values():
        yield from phrases


# Bulk insertion: plain tuples through the driver


def _refuse_taken(connection: Connection, name: str) -> None:
    if connection.execute(select(schema.dataset.c.id).where(schema.dataset.c.name == name)).first() is not None:
        raise WinnowError(f"A data set named {name!r} exists already. Choose another name.")


def _insert(connection: Connection, document: Document, dataset_id: int, digests: dict[int, str]) -> dict[str, Any]:
    placeholder = {
        "id": dataset_id,
        "name": f"importing {dataset_id}",
        "format": "",
        "created_at": 0.0,
        "images": 0,
        "boxes": 0,
        "phrases": 0,
    }
    connection.execute(schema.dataset.insert().values(placeholder))
    first = Firsts(*(_next_id(connection, schema.metadata.tables[name]) for name in Firsts._fields))
    _many(connection, schema.category, (_category_row(item, first, dataset_id) for item in document.categories))
    images = _many(
        connection, schema.image, (_image_row(item, first, dataset_id, digests) for item in document.images())
    )
    with _indexes_later(connection, schema.box):
        boxes = _many(connection, schema.box, document.box_rows(first))
    phrases = _many(connection, schema.phrase, (_phrase_row(item, first) for item in document.phrases()))
    links = ((p.id + first.phrase, b + first.box) for p in document.phrases() for b in p.box_ids)
    _many(connection, schema.phrase_box, links)
    return {"images": images, "boxes": boxes, "phrases": phrases, "info": pack(document.info)}


def _many(connection: Connection, table: Any, rows: Iterable[tuple[Any, ...]]) -> int:
    """Insert tuples in the order of the table's columns. Returns how many."""
    count = 0
    for part in batched(rows, BULK):
        write_rows(connection, table, part)
        count += len(part)
    return count


@contextmanager
def _indexes_later(connection: Connection, table: Any) -> Iterator[None]:
    """For the first bulk into an empty table: build the indexes once, afterwards. Part of the same transaction; on PostgreSQL it
    would shut readers out."""
    empty = not is_postgres(connection) and connection.execute(select(table.c.id).limit(1)).first() is None
    for index in table.indexes if empty else ():
        index.drop(connection)
    yield
    for index in table.indexes if empty else ():
        index.create(connection)


def _next_id(connection: Connection, table: Any) -> int:
    return (connection.execute(select(func.max(table.c.id))).scalar() or 0) + 1


def _category_row(item: Category, first: Firsts, dataset_id: int) -> tuple[Any, ...]:
    common = (item.id + first.category, dataset_id, source_id_out(item.source_id))
    return (*common, item.name, item.frequency, pack(item.extra))


def _image_row(item: Image, first: Firsts, dataset_id: int, digests: dict[int, str]) -> tuple[Any, ...]:
    size = (item.width, item.height)
    return (
        item.id + first.image,
        dataset_id,
        item.split,
        source_id_out(item.source_id),
        item.file_name,
        *size,
        digests.get(item.id),
        pack(item.extra),
    )


def _phrase_row(item: Phrase, first: Firsts) -> tuple[Any, ...]:
    parent = None if item.parent_id is None else item.parent_id + first.phrase
    return (
        item.id + first.phrase,
        item.image_id + first.image,
        parent,
        item.text,
        item.holds,
        pack(item.spans),
        pack(item.extra),
    )


def _quarantine_rows(connection: Connection, faults: Sequence[Fault], dataset_id: int) -> Iterator[tuple[Any, ...]]:
    first = _next_id(connection, schema.quarantine)
    for number, fault in enumerate(faults, first):
        yield (number, dataset_id, fault.file, fault.item, fault.seen, fault.expected)


# Rows to records


def _dataset(row: Row[Any]) -> Dataset:
    values = dict(row._mapping)
    return Dataset(**{**values, "info": unpack(values["info"], {})})


def _category(row: Row[Any]) -> Category:
    values = dict(row._mapping)
    return Category(**{**values, "source_id": source_id_in(row.source_id), "extra": unpack(row.extra, {})})


def _image(row: tuple[Any, ...]) -> Image:
    key, dataset_id, split, source, file_name, width, height, digest, extra = row
    return Image(
        id=key,
        dataset_id=dataset_id,
        split=split,
        source_id=source_id_in(source),
        file_name=file_name,
        width=width,
        height=height,
        digest=digest,
        extra=unpack(extra, {}),
    )


def _phrase(row: Row[Any], box_ids: tuple[int, ...]) -> Phrase:
    empty: list[tuple[int, int]] = []
    spans = tuple((start, end) for start, end in unpack(row.spans, empty))
    extra: dict[str, Any] = unpack(row.extra, {})
    common = {"id": row.id, "image_id": row.image_id, "parent_id": row.parent_id, "text": row.text, "holds": row.holds}
    return Phrase(**common, spans=spans, box_ids=box_ids, extra=extra)
