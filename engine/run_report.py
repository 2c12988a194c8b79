"""What became of a run: what the policy says, what people say, where they differ, how far reviewers agree, and what an accepted
candidate cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from db.columns import ACCEPT, ACCEPTED, PENDING, REJECT, REJECTED, SKIPPED, UNSEEN, Table, decide, effective
from db.errors import WinnowError
from db.records import Decision, Kind, Policy, Record, RunKind, Verdict
from db.store import Store
from engine.agreement import Agreement, Estimate, Pair, agreement
from engine.coverage import Coverage, Purity, coverage, purity
from engine.coverage import lines as coverage_lines
from engine.diversity import wilson
from engine.spending import spent

POLICY = {ACCEPT: "accept", REJECT: "reject", PENDING: "pending"}
PEOPLE = {ACCEPTED: "accept", REJECTED: "reject", SKIPPED: "skip", UNSEEN: "undecided"}
SHOWN = 12  # classes and pairs of reviewers that `lines` lists
_LABELS = {Decision.ACCEPT: "accept", Decision.EDIT: "accept", Decision.REJECT: "reject"}


class Share(Record, frozen=True, kw_only=True):
    """`hits` of `of`, and their share with its 95 % Wilson interval; None of none."""

    hits: int
    of: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class Price(Record, frozen=True, kw_only=True):
    """`seconds` of work (making and scoring, models loaded), `tokens` read and written, `money` in the prices' currency."""

    seconds: float
    tokens: float
    money: float


class Part(Record, frozen=True, kw_only=True):
    """Some candidates of the run. `policy` counts accept, reject, pending; `people` accept (edits too), reject, skip, undecided.
    `accepted` counts what stands: the word of people, else that of the policy. `price` is that of an accepted one, None without
    any; the run's spending is shared out evenly among its candidates."""

    name: str
    candidates: int
    policy: dict[str, int]
    people: dict[str, int]
    accepted: int
    price: Price | None


class RunReport(Record, frozen=True, kw_only=True):
    """`confusion` counts candidates by (what the policy says, what people say). Of those that people decided: `precision` is how
    many of the policy's accepted they accept, `recall` how many of theirs the policy accepts. `policy` names its version, "" for
    a run without one. `coverage` and `purity` are of whole images, None where it made none."""

    run_id: int
    title: str
    policy: str
    whole: Part
    kinds: tuple[Part, ...]
    classes: tuple[Part, ...]
    confusion: tuple[tuple[str, str, int], ...]
    precision: Share
    recall: Share
    agreement: Agreement
    spent: Price
    coverage: Coverage | None = None
    purity: Purity | None = None


def report(store: Store, run_id: int) -> RunReport:
    """The report of a generate run as things stand now. Raises NotFound, and WinnowError for a run that makes no candidates."""
    run = store.ledger.run(run_id)
    if run.kind is not RunKind.GENERATE or run.dataset_id is None:
        raise WinnowError(f"Run {run_id} ({run.kind}) makes no candidates; a report is of a generate run.")
    policy = store.review.policies(run.dataset_id, [run_id]).get(run_id)
    table = store.review.columns(run.dataset_id).where(run=run_id)
    said = _said(table, policy)
    cost = _spent(store, run_id)
    each = _times(cost, 1 / max(len(table), 1))
    whole = _part("all", table, policy, each)
    return RunReport(
        run_id=run_id,
        title=run.title,
        policy=f"{policy.name} v{policy.version}" if policy else "",
        whole=whole,
        kinds=_kinds(table, policy, each),
        classes=_classes(table, policy, each),
        confusion=_confusion(said, table),
        precision=_share(_both(said, table), int(((said == ACCEPT) & _decided(table)).sum())),
        recall=_share(_both(said, table), int((table.human == ACCEPTED).sum())),
        agreement=agreement(_ratings(_log(store, table))),
        spent=cost,
        coverage=coverage(store, run_id),
        purity=purity(store, run_id, whole.accepted),
    )


def _said(table: Table, policy: Policy | None) -> np.ndarray:
    return decide(table, policy) if policy else np.full(len(table), PENDING, np.int8)


def _decided(table: Table) -> np.ndarray:
    return np.isin(table.human, (ACCEPTED, REJECTED))


def _both(said: np.ndarray, table: Table) -> int:
    return int(((said == ACCEPT) & (table.human == ACCEPTED)).sum())


def _share(hits: int, of: int) -> Share:
    if not of:
        return Share(hits=hits, of=of)
    low, high = wilson(hits, of)
    return Share(hits=hits, of=of, value=hits / of, low=low, high=high)


def _confusion(said: np.ndarray, table: Table) -> tuple[tuple[str, str, int], ...]:
    cells = ((code, human) for code in POLICY for human in PEOPLE)
    return tuple((POLICY[a], PEOPLE[b], int(((said == a) & (table.human == b)).sum())) for a, b in cells)


# Parts


def _kinds(table: Table, policy: Policy | None, each: Price) -> tuple[Part, ...]:
    parts = (_part(str(kind), table.where(kind=kind), policy, each) for kind in Kind)
    return tuple(part for part in parts if part.candidates)


def _classes(table: Table, policy: Policy | None, each: Price) -> tuple[Part, ...]:
    """Those with the most candidates first; candidates without a class come as "(none)"."""
    names = {**table.names, -1: "(none)"}
    known = np.unique(table.category).tolist()
    parts = (_part(names[i], table.where(category=i), policy, each) for i in known)
    return tuple(sorted(parts, key=lambda part: (-part.candidates, part.name)))


def _part(name: str, table: Table, policy: Policy | None, each: Price) -> Part:
    said = _said(table, policy)
    stands = effective(table, dict.fromkeys(np.unique(table.run).tolist(), policy) if policy else {})
    accepted = int((stands == ACCEPT).sum())
    return Part(
        name=name,
        candidates=len(table),
        policy={word: int((said == code).sum()) for code, word in POLICY.items()},
        people={word: int((table.human == code).sum()) for code, word in PEOPLE.items()},
        accepted=accepted,
        price=_times(each, len(table) / accepted) if accepted else None,
    )


# Cost


def _spent(store: Store, run_id: int) -> Price:
    """What making the candidates and scoring them took so far."""
    scoring = [run.id for run in store.ledger.followers(run_id) if run.kind is RunKind.FILTER]
    return _total(_price(store, one) for one in (run_id, *scoring))


def _price(store: Store, run_id: int) -> Price:
    sums = spent(store, run_id)
    usage = sums["usage"]
    return Price(seconds=sums["seconds"], tokens=usage["tokens_in"] + usage["tokens_out"], money=usage["cost"])


def _total(prices: Iterable[Price]) -> Price:
    known = list(prices)
    names = Price.__struct_fields__
    return Price(**{name: sum(getattr(one, name) for one in known) for name in names})


def _times(price: Price, factor: float) -> Price:
    return Price(**{name: getattr(price, name) * factor for name in Price.__struct_fields__})


# Reviewers


def _log(store: Store, table: Table) -> list[Verdict]:
    """All verdicts on these candidates, newest first."""
    known = set(table.ids.tolist())
    return [verdict for verdict in store.review.verdicts(limit=2**31 - 1) if verdict.candidate_id in known]


def _ratings(log: Sequence[Verdict]) -> dict[int, dict[str, str]]:
    """Candidate -> reviewer -> what that reviewer says of it now: accept (an edit is one) or reject. A verdict that was taken back
    does not count, by whomever; neither does a skip, nor what it replaced."""
    undone = {verdict.undoes for verdict in log if verdict.decision is Decision.UNDO}
    latest: dict[tuple[int, str], Decision] = {}
    for verdict in log:
        if verdict.decision is not Decision.UNDO and verdict.op_id not in undone:
            latest.setdefault((verdict.candidate_id, verdict.reviewer), verdict.decision)
    ratings: dict[int, dict[str, str]] = {}
    for (candidate, reviewer), decision in latest.items():
        if decision in _LABELS:
            ratings.setdefault(candidate, {})[reviewer] = _LABELS[decision]
    return ratings


# In words


def lines(report: RunReport) -> list[str]:
    """The report, line by line."""
    whole = report.whole
    return [
        f"Run {report.run_id}, {report.title}: {whole.candidates:,} candidates, {whole.accepted:,} accepted as it stands.",
        f"Policy {report.policy or '(none)'}: {_counted(whole.policy)}.",
        f"People: {_counted(whole.people)}.",
        *_differences(report),
        *_agreed(report.agreement),
        *coverage_lines(report.coverage, report.purity),
        _cost(report),
        *(f"Kind {part.name}: {_brief(part)}." for part in report.kinds if len(report.kinds) > 1),
        *(f"Class {part.name}: {_brief(part)}." for part in report.classes[:SHOWN]),
        *([f"and {len(report.classes) - SHOWN} more classes."] if len(report.classes) > SHOWN else []),
    ]


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {word}" for word, n in counts.items())


def _brief(part: Part) -> str:
    price = f", {_priced(part.price)} each" if part.price else ""
    return f"{part.candidates:,} made, policy {_counted(part.policy)}; people {_counted(part.people)}; {part.accepted:,} accepted{price}"


def _differences(report: RunReport) -> list[str]:
    cells = {(a, b): n for a, b, n in report.confusion}
    if not sum(n for (_, b), n in cells.items() if b in ("accept", "reject")):
        return ["People have decided nothing yet, so nothing can be said of the policy."]
    wrong, missed = cells["accept", "reject"], cells["reject", "accept"]
    return [
        f"The policy accepts what people reject {wrong:,} times and rejects what they accept {missed:,} times.",
        f"Of its accepted that people decided they accept {_rate(report.precision)}.",
        f"Of what people accept it accepts {_rate(report.recall)}.",
    ]


def _rate(share: Share) -> str:
    if share.value is None:
        return "none of none"
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}; {share.hits:,} of {share.of:,})"


def _agreed(found: Agreement) -> list[str]:
    if not found.items:
        return ["No candidate was decided by two reviewers, so their agreement is unknown."]
    alpha = (
        f"Reviewers: {found.items:,} candidates decided by two or more; Krippendorff's alpha {_estimated(found.alpha)}."
    )
    return [alpha, *map(_paired, found.pairs[:SHOWN])]


def _paired(pair: Pair) -> str:
    return (
        f"{pair.one} and {pair.other}: {pair.items:,} in common, {pair.same:.0%} alike, Cohen's kappa "
        f"{_estimated(pair.kappa)}."
    )


def _estimated(estimate: Estimate) -> str:
    if estimate.value is None:
        return "unknown (all decisions are the same)"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f} (too few for an interval)"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _cost(report: RunReport) -> str:
    price = report.whole.price
    each = (
        f"; an accepted one took {_priced(price)}" if price else "; nothing is accepted, so there is no price for one"
    )
    return f"Spent: {_priced(report.spent)}{each}."


def _priced(price: Price) -> str:
    told = [f"{price.seconds:.3g} s"]
    told += [f"{price.tokens:,.0f} tokens"] if price.tokens else []
    told += [f"{price.money:.3g} in money"] if price.money else []
    return ", ".join(told)
