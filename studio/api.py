"""The plain HTTP routes: review (`/api/review/...`), images (`/media/...`) and the files of the components.

Every refusal is JSON, `{"error": sentence}`. Routes that write ask for the header `X-Winnow`, which a page of another
origin cannot send without asking first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from db.edits import Annotations, Correction, Version, content_faults, draft_of
from db.errors import DiskFull, NotFound, Unwritable, WinnowError
from db.queries import Queue, Span
from db.ranking import COMPUTED
from db.records import WHOLE, Candidate, Content, Dataset, Decision, Kind, NewVerdict, RunKind, Verdict
from db.review import among
from db.store import Store
from db.users import Role, User
from db.verdicts import Saved
from studio import static, views
from studio.finding import SIMILAR, Finder
from studio.thumbs import SIZES, Thumbs

STATES = ("undecided", "accept", "reject", "skip")  # in the order of the codes of `Table.human`
MAX_BODY = 2**20
MAX_VERDICTS = 500
SHRINKING = 4  # thumbnails made at once
READERS = 2  # pages of cards made at once: more only take Python's lock from each other, and from those who decide
STATUS = {NotFound: 404, DiskFull: 507, Unwritable: 503}
RETRY_SECONDS = 5
MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
MEDIA_HEADERS = {
    "Cache-Control": "private, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}

RowId = Annotated[int, Field(ge=1, lt=2**63)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Refused(WinnowError):
    """A request that cannot be served, with its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Wanted(BaseModel):
    """A queue as it stands in a URL."""

    model_config = ConfigDict(extra="forbid")
    dataset: RowId
    run: RowId | None = None
    kind: Kind | None = None
    category: RowId | None = None
    human: Literal["undecided", "accept", "reject", "edit", "skip", "flag", "disputed", "any"] = "undecided"
    order: str = Field("oldest", max_length=120)
    selection: str | None = Field(None, min_length=1, max_length=80)  # a token of the threshold lab
    audit: RowId | None = None
    strategy: str | None = Field(None, max_length=200)
    says: Literal["accept", "reject", "pending"] | None = None
    text: str = Field("", max_length=400)
    scores: str = Field("", max_length=2000)  # FILTER:LOW:HIGH, several with commas between; a bound may be left out
    cluster: str | None = Field(None, pattern=r"^\d{1,3}:\d{1,3}$")  # NUMBER:OF, of so many clusters

    def queue(self) -> Queue:
        return Queue(
            dataset_id=self.dataset,
            run_id=self.run,
            kind=self.kind,
            category_id=self.category,
            human=self.human,
            order=self.order,
            selection=self.selection,
            audit=self.audit,
            strategy=self.strategy,
            says=self.says,
            text=self.text,
            spans=spans(self.scores),
        )


def spans(text: str) -> tuple[Span, ...]:
    """The ranges of scores as they stand in a URL. Raises WinnowError."""
    return tuple(_span(part) for part in text.split(",") if part)


def _span(text: str) -> Span:
    name, *bounds = text.split(":")
    try:
        low, high = (float(bound) if bound else None for bound in bounds)
    except ValueError as error:
        expected = "expected FILTER:LOW:HIGH, such as seam:0.5:2 or seam::2"
        raise WinnowError(f"The range of scores {text!r:.100} cannot be read; {expected}.") from error
    if any(bound is not None and not math.isfinite(bound) for bound in (low, high)):
        raise WinnowError(f"The range of scores {text!r:.100} has an end that is no finite number.")
    return Span(filter=name, low=low, high=high)


class Asked(Wanted):
    cursor: str = Field("", max_length=400)
    limit: int = Field(32, ge=1, le=100)
    reviewer: str = Field("local", max_length=200)  # whose looks of an audit are behind them

    @property
    def slow(self) -> bool:
        """Whether it takes the columns or the vectors, which are first read into memory."""
        weighed = self.cluster is not None or self.queue().weighed
        return weighed or self.order in COMPUTED or self.order.startswith(SIMILAR)


class Held(BaseModel):
    """Candidates that a person has on the screen."""

    model_config = ConfigDict(extra="forbid")
    reviewer: str = Field("local", min_length=1, max_length=200)
    ids: list[RowId] = Field(max_length=500)
    was: str | None = Field(None, min_length=1, max_length=200)  # the name under which they were held so far


class Counted(Wanted):
    policies: bool = False


class Delivered(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A verdict as a browser sends it."""

    op_id: Annotated[str, msgspec.Meta(min_length=8, max_length=80)]
    candidate_id: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    decision: Decision
    reviewer: Text = "local"
    reason: Text | None = None
    edit: Correction | None = None
    undoes: Text | None = None
    act: Text | None = None
    seen: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None

    def verdict(self) -> NewVerdict:
        edit = None if self.edit is None else msgspec.to_builtins(self.edit)
        return NewVerdict(**msgspec.structs.asdict(self) | {"edit": edit})


class Route(APIRoute):
    """Turns the errors meant for people into JSON; bugs go on to the server's log."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return answer({"error": _sentence(error)}, 422)
            except WinnowError as error:
                return refusal(error)

        return answered


def refusal(error: WinnowError) -> Response:
    """The answer to a request that met an error meant for people; when the same again may go well, it says after how long."""
    said = answer({"error": str(error)}, _status(error))
    if isinstance(error, Unwritable):
        said.headers["Retry-After"] = str(RETRY_SECONDS)
    return said


def _status(error: WinnowError) -> int:
    if isinstance(error, Refused):
        return error.status
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 400)


def _sentence(error: RequestValidationError) -> str:
    parts = (
        f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']} (seen: {fault.get('input')!r:.80})"
        for fault in error.errors()
    )
    return "; ".join(parts)


def answer(value: Any, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def router(store: Store) -> APIRouter:
    """All routes on one store. Include them before Gradio is mounted at "/", which swallows what comes later."""
    routes = APIRouter(route_class=Route)
    _add_review(routes, store, Finder(store))
    _add_media(routes, store, Thumbs(store.blobs, store.home / "thumbs"))
    static.add_to(routes)
    return routes


# Review


def _add_review(routes: APIRouter, store: Store, finder: Finder) -> None:
    @routes.get("/api/review/setup")
    def setup(dataset: Annotated[RowId | None, Query()] = None) -> Response:
        """What the controls of the page offer, for the named data set or the one worked on last."""
        return answer(_setup(store, dataset))

    desk = CapacityLimiter(READERS)

    @routes.get("/api/review/next")
    async def following(asked: Annotated[Asked, Query()]) -> Response:
        """Cards, and the cursor of the page after them. Of what is still to be decided, nobody is given what somebody else has
        on the screen."""
        return await to_thread.run_sync(_page, store, finder, asked, limiter=None if asked.slow else desk)

    @routes.post("/api/review/leases", dependencies=[Depends(from_our_pages)])
    def leases(held: Held) -> Response:
        """Keep candidates that are still on the screen. Answers those that somebody else has now, with the name."""
        if held.was is not None:
            store.people.leave(held.was, held.ids)
        mine = store.people.take(held.ids, held.reviewer)
        lost = store.people.holders(held.ids, held.reviewer)
        return answer({"kept": sorted(mine), "lost": lost})

    @routes.get("/api/review/counts")
    def counts(wanted: Annotated[Counted, Query()]) -> Response:
        """How many of the queue's candidates are in which state; what the policies say only when asked, since it
        takes longer."""
        if wanted.queue().weighed or wanted.cluster is not None:
            return answer({"human": _tally(store, finder, wanted)})
        known = store.review.policies(wanted.dataset) if wanted.policies else {}
        return answer(store.review.counts(wanted.queue(), known))

    @routes.get("/api/review/history")
    def history(
        dataset: Annotated[RowId, Query()],
        reviewer: Annotated[str, Query(min_length=1, max_length=200)] = "local",
        before: Annotated[RowId | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=50)] = 20,
    ) -> Response:
        """The latest verdicts of a reviewer that still stand, each with its card: what undo takes back. `before` is the id of a
        verdict, to read on from there; without one, corrections of images are among them. Newest first."""
        verdicts = _history(store, store.review.latest(dataset, reviewer, before=before, limit=limit))
        corrections = [] if before is not None else _corrections(store, store.edits.standing(dataset, reviewer))
        return answer(sorted([*verdicts, *corrections], key=lambda one: -one["at"]))

    @routes.post("/api/review/verdicts", dependencies=[Depends(from_our_pages)])
    async def verdicts(request: Request) -> Response:
        """Append verdicts. Answers what became of each, in order; sending one twice is harmless. The status is 409 when one of
        them met what somebody else decided meanwhile; the others are saved."""
        delivered = _verdicts(await _body(request))
        await run_in_threadpool(_refuse_faulty, store, delivered)
        saved = await run_in_threadpool(_decided, store, delivered, request)
        return answer(saved, 409 if any(one.status == "conflict" for one in saved) else 200)


def _page(store: Store, finder: Finder, asked: Asked) -> Response:
    store.datasets.get(asked.dataset)
    start = cursor_of(asked.cursor) or _looked(store, asked)
    found, cursor = _handed_out(store, finder, asked, start)
    shown = None if cursor is None else msgspec.json.encode(cursor).decode()
    return answer({"cards": _cards(store, asked, found), "next": shown})


def _refuse_faulty(store: Store, delivered: Sequence[NewVerdict]) -> None:
    """Raises Refused that names all that is wrong with corrections of whole images."""
    corrected = {one.candidate_id: one.edit["content"] for one in delivered if one.edit and "content" in one.edit}
    found = store.review.candidates(list(corrected)) if corrected else []
    told = [f"candidate {one.id}: {fault}" for one in found for fault in _faults(store, one, corrected[one.id])]
    if told:
        raise Refused(400, f"The correction cannot be kept: {'; '.join(told)}.")


def _faults(store: Store, candidate: Candidate, content: dict[str, Any]) -> list[str]:
    if candidate.kind not in WHOLE:
        return ["it is no whole image, so nothing is said of one"]
    classes = {category.id for category in store.datasets.categories(candidate.dataset_id)}
    boxed_whole = candidate.kind is Kind.CLASS_IMAGE
    return content_faults(msgspec.convert(content, Content), candidate.content, classes, boxed_whole=boxed_whole)


def _decided(store: Store, delivered: Sequence[NewVerdict], request: Request) -> list[Saved]:
    theirs = of_others(store, request, [one.undoes for one in delivered if one.undoes is not None])
    saved = iter(store.review.decide([one for one in delivered if one.undoes not in theirs]))
    return [
        Saved(op_id=one.op_id, status="refused", message=theirs[one.undoes]) if one.undoes in theirs else next(saved)
        for one in delivered
    ]


def of_others(store: Store, request: Request, undone: Sequence[str]) -> dict[str | None, str]:
    """Which of these verdicts and acts the person may not take back, and why: one with the role of a reviewer takes back their
    own only."""
    user: User | None = request.scope.get("winnow.user")
    if user is None or user.role.covers(Role.CURATOR) or not undone:
        return {}
    return {
        name: f"{giver} gave this verdict; only {giver}, a curator or an admin may take it back. Give yours beside it."
        for name, giver in store.review.givers(undone).items()
        if giver != user.name
    }


def _tally(store: Store, finder: Finder, wanted: Wanted) -> dict[str, int]:
    """The states of what only the columns can find."""
    anyone = msgspec.structs.replace(wanted.queue(), human="any", order="oldest")
    table = store.review.columns(wanted.dataset)
    found = np.bincount(table.human[among(table.ids, finder.ids(anyone, wanted.cluster))], minlength=len(STATES))
    return {name: n for name, n in zip(STATES, found.tolist(), strict=True) if n}


def _setup(store: Store, dataset: int | None) -> dict[str, Any]:
    datasets = store.datasets.list()
    chosen = chosen_dataset(store, datasets, dataset)
    runs = store.ledger.runs(kind=RunKind.GENERATE, dataset_id=chosen, limit=200) if chosen else []
    policies = list(store.review.policies(chosen).values()) if chosen else []
    return {
        "dataset": chosen,
        "datasets": [{"value": one.id, "title": one.name} for one in datasets],
        "runs": [{"value": run.id, "title": f"{run.id} · {run.title}", "ended": run.state.ended} for run in runs],
        "kinds": [{"value": str(kind), "title": title} for kind, (title, _) in views.KINDS.items()],
        "orders": views.orders(policies),
        "reasons": views.REASONS,
    }


def chosen_dataset(store: Store, datasets: Sequence[Dataset], wanted: int | None) -> int | None:
    """The wanted data set, or that of the latest generation, or the newest."""
    if wanted is not None:
        return store.datasets.get(wanted).id
    latest = store.ledger.runs(kind=RunKind.GENERATE, limit=1)
    if latest and latest[0].dataset_id is not None:
        return latest[0].dataset_id
    return datasets[-1].id if datasets else None


def _looked(store: Store, asked: Asked) -> list[Any]:
    """Where a reviewer goes on in an audit: after the last of the items they looked at without leaving one out."""
    if asked.audit is None:
        return []
    items = store.audits.looked(asked.audit)
    upto = next((item.position for item in items if not item.gone and asked.reviewer not in item.verdicts), len(items))
    return [upto - 1] if upto else []


def _handed_out(
    store: Store, finder: Finder, asked: Asked, start: list[Any]
) -> tuple[list[Candidate], list[Any] | None]:
    """A page of a queue, less what others have on the screen, and with it some that wait for a second look."""
    queue = asked.queue()
    if asked.audit is not None or asked.human != "undecided":
        return finder.page(queue, cursor=start, limit=asked.limit, cluster=asked.cluster)
    queue = msgspec.structs.replace(queue, free_for=asked.reviewer)
    seconds = store.people.second_looks(asked.dataset, asked.reviewer, max(1, asked.limit // 4))
    second = store.review.shown(msgspec.structs.replace(queue, human="any"), seconds)
    cursor: list[Any] | None = start
    while cursor is not None:
        found, cursor = finder.page(queue, cursor=cursor, limit=asked.limit, cluster=asked.cluster)
        ours = store.people.take([one.id for one in (*found, *second)], asked.reviewer)
        found = store.review.shown(queue, [one.id for one in found if one.id in ours])  # its holder may have decided
        ours &= store.people.unseen([one.id for one in second], asked.reviewer)
        mixed = _mixed(found, [one for one in second if one.id in ours])
        if mixed:
            return mixed, cursor
    return [], None


def _mixed(found: Sequence[Candidate], second: Sequence[Candidate]) -> list[Candidate]:
    """A second look after every three first ones, so that nobody can tell them apart by their place."""
    mixed = list(found)
    for i, one in enumerate(second):
        mixed.insert(4 * i + 3, one)
    return mixed


def _cards(store: Store, asked: Asked, found: Sequence[Candidate]) -> list[dict[str, Any]]:
    """The cards with their versions, without what this person must not know."""
    ids = [one.id for one in found]
    versions = store.people.versions(ids)
    unseen = store.people.unseen(ids, asked.reviewer)
    blind = asked.audit is not None and store.audits.audit(asked.audit).hide
    cards = []
    for card in views.cards(store, found):
        version, by = versions.get(card["id"], (0, None))
        shown = card | {"version": version, "by": by}
        if card["id"] in unseen:
            shown = views.unjudged(shown) | {"by": None}
        cards.append(views.blind(shown) if blind else shown)
    return cards


def cursor_of(text: str) -> list[Any]:
    """The cursor that a page was answered with. Raises WinnowError."""
    try:
        return msgspec.json.decode(text, type=list[float | int | str]) if text else []
    except (msgspec.MsgspecError, RecursionError) as error:
        raise WinnowError(f"The cursor {text[:80]!r} is none that a page was answered with: {error}.") from error


def _history(store: Store, log: Sequence[Verdict]) -> list[dict[str, Any]]:
    ids = list(dict.fromkeys(verdict.candidate_id for verdict in log))
    versions = store.people.versions(ids)
    cards = views.cards(store, store.review.candidates(ids))
    shown = {card["id"]: card | {"version": versions.get(card["id"], (0, None))[0]} for card in cards}
    return [_remembered(verdict, shown[verdict.candidate_id]) for verdict in log]


def _corrections(store: Store, log: Sequence[tuple[Version, Annotations]]) -> list[dict[str, Any]]:
    """Corrections of images, each beside a candidate made from its image; those of images without one are left out."""
    first = store.review.first_of([version.image_id for version, _ in log])
    cards = {card["image"]: card for card in views.cards(store, list(first.values()))}
    return [
        {
            "id": None,
            "op_id": f"version {version.number} of {version.image_id}",
            "decision": "edit",
            "at": version.at,
            "card": cards[version.image_id],
            "draft": draft_of(version.annotations),
            "earlier": draft_of(before),
        }
        for version, before in log
        if version.image_id in cards
    ]


def _remembered(verdict: Verdict, card: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": verdict.id,
        "op_id": verdict.op_id,
        "decision": str(verdict.decision),
        "reason": verdict.reason,
        "edit": verdict.edit,
        "at": verdict.at,
        "card": card,
    }


def from_our_pages(request: Request) -> None:
    if "x-winnow" not in request.headers:
        raise Refused(403, "The header X-Winnow is missing: verdicts are taken from the studio's own pages only.")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "Verdicts are a JSON list; expected Content-Type: application/json.")


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise Refused(
                413, f"The request is longer than {MAX_BODY} bytes; send at most {MAX_VERDICTS} verdicts at once."
            )
    return bytes(body)


def _verdicts(body: bytes) -> list[NewVerdict]:
    try:
        delivered = msgspec.json.decode(body, type=list[Delivered])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Refused(422, f"Not a list of verdicts: {error}.") from error
    if len(delivered) > MAX_VERDICTS:
        raise Refused(413, f"{len(delivered)} verdicts at once; send at most {MAX_VERDICTS}.")
    return [one.verdict() for one in delivered]


# Images


def _add_media(routes: APIRouter, store: Store, thumbs: Thumbs) -> None:
    pool = ThreadPoolExecutor(SHRINKING, "thumbs")  # decoding leaves Python's lock alone

    @routes.get("/media/blob/{digest}")
    def blob(digest: str, request: Request) -> Response:
        """An image of the store, named by its content."""
        path = _existing(store.blobs.path, digest)
        return _file(path, image_type(path), digest, request)

    @routes.get("/media/thumb/{digest}")
    def thumb(digest: str, request: Request, size: Annotated[int, Query()] = 160) -> Response:
        """A small JPEG of an image, its longer side `size` pixels."""
        if size not in SIZES:
            raise Refused(422, f"No thumbnails of size {size}; known: {', '.join(map(str, SIZES))}.")
        _existing(store.blobs.path, digest)
        return _file(thumbs.path(digest, size), "image/jpeg", f"{digest}-{size}", request)

    @routes.post("/media/sheet")
    def sheet(wanted: Sheet) -> Response:
        """Many thumbnails in one answer: of each the length (4 bytes, little-endian) and the JPEG; length 0 where there is none."""
        if wanted.size not in SIZES:
            raise Refused(422, f"No thumbnails of size {wanted.size}; known: {', '.join(map(str, SIZES))}.")
        parts = list(pool.map(lambda digest: _thumbnail(thumbs, digest, wanted.size), wanted.digests))
        body = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
        return Response(body, headers={"X-Content-Type-Options": "nosniff"}, media_type="application/octet-stream")


class Sheet(BaseModel):
    """Thumbnails that are wanted together."""

    model_config = ConfigDict(extra="forbid")
    size: int = 160
    digests: list[Annotated[str, Field(min_length=64, max_length=64)]] = Field(max_length=200)


def _thumbnail(store_thumbs: Thumbs, digest: str, size: int) -> bytes:
    """Nothing where there is no picture: one broken image does not take the others with it."""
    try:
        return store_thumbs.path(digest, size).read_bytes()
    except WinnowError:
        return b""


def _existing(path_of: Callable[[str], Path], digest: str) -> Path:
    try:
        return path_of(digest)
    except WinnowError as error:
        raise Refused(404, str(error)) from error


def image_type(path: Path) -> str:
    """The media type by the first bytes. Raises Refused for anything but JPEG, PNG and WebP: an SVG could run scripts."""
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "image/webp"
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    raise Refused(415, f"Blob {path.name[:12]} is no JPEG, PNG or WebP image.")


def _file(path: Path, kind: str, tag: str, request: Request) -> Response:
    headers = MEDIA_HEADERS | {"ETag": f'"{tag}"'}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=kind, headers=headers)
