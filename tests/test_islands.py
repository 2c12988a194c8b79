"""Islands: pages that bring along what they show first, and scripts that come as one."""

import json
import re
from pathlib import Path

import pytest
from conftest import candidates, leased, small_document
from fastapi.testclient import TestClient

from db.records import Kind, NewCandidate, Rule
from db.store import Store
from studio import islands, static, views
from studio.app import create_app

HTML = {"Accept": "text/html"}
END = "</script><script>document.title='run'</script>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("islands") / "home"


@pytest.fixture(scope="module")
def client(home: Path) -> TestClient:
    return TestClient(create_app(home))


@pytest.fixture(scope="module")
def ids(client: TestClient, home: Path) -> list[int]:
    store = Store(home)
    dataset = store.datasets.import_document(small_document(home.parent / "files"), "small")
    made = candidates(store, dataset.id, leased(store, dataset.id), 20)
    store.close()
    return made


def brought(page: str) -> dict[str, dict]:
    found = re.findall(r'<script type="application/json" data-answer="([^"]+)">(.*?)</script>', page, re.DOTALL)
    return {address.replace("&amp;", "&"): json.loads(text) for address, text in found}


def test_a_page_without_a_data_set_says_so_at_once(tmp_path: Path) -> None:
    page = TestClient(create_app(tmp_path / "empty")).get("/review", headers=HTML).text
    assert [answer["dataset"] for answer in brought(page).values()] == [None]


def test_the_page_of_review_brings_its_first_candidates_and_their_pictures(client: TestClient, ids: list[int]) -> None:
    answer = client.get("/review?dataset=1&human=any&__theme=dark", headers=HTML)
    (asked, known), (following, first) = brought(answer.text).items()
    assert asked == "/api/review/setup?dataset=1" and known == client.get(asked).json()
    assert [card["id"] for card in first["cards"]] == ids[:8]
    assert following.startswith("/api/review/next?") and "__theme" not in following
    assert f'<link rel="preload" as="image" href="{first["cards"][0]["after"]["url"]}">' in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.index("<nav") < answer.text.index("data-answer") < answer.text.index("<gradio-app")


def test_gradio_starts_once_and_after_the_island(client: TestClient, ids: list[int]) -> None:
    for path, script in (("/review", "review_card/card.js"), ("/grid", "browse/browse.js")):
        page = client.get(path, headers=HTML).text
        (start,) = re.findall(r'<script type="module">(.*?)</script>', page)
        assert static.address(script) in start and re.search(
            r"finally\(\(\) => import\(\"\./assets/[^\"]+\"\)\)", start
        )
        assert islands.GRADIO.search(page) is None
    assert islands.GRADIO.search(client.get("/jobs", headers=HTML).text), "other pages start as Gradio made them"


def test_the_bar_of_pages_is_the_one_that_gradio_draws(client: TestClient) -> None:
    page = client.get("/review", headers=HTML).text
    shown = re.findall(r'<a href="(/\w*)"', page[page.index("<nav") : page.index("</nav>")])
    config = json.loads(re.search(r"gradio_config = (\{.*?\});?</script>", page, re.DOTALL)[1])
    assert shown == [f"/{path}" for path, _, listed in config["pages"] if listed]
    assert '<a href="/review" class="active">Review</a>' in page


def test_candidates_are_kept_for_the_name_of_the_reader(client: TestClient, ids: list[int], home: Path) -> None:
    client.cookies.set(islands.NAME, "Zo%C3%AB%20M")
    page = client.get("/review?dataset=1", headers=HTML).text
    client.cookies.clear()
    _, following = brought(page)
    assert "reviewer=Zo%C3%AB+M" in following
    store = Store(home)
    assert set(store.people.holders(ids, "local").values()) == {"Zoë M"}
    store.close()


def test_nothing_in_a_candidate_ends_the_script_that_holds_it(client: TestClient, ids: list[int], home: Path) -> None:
    store = Store(home)
    shard = leased(store, 1)
    image = store.datasets.images(1)[0].id
    made = NewCandidate(
        target="t", variant=0, kind=Kind.NEGATIVE_TEXT, image_id=image, seed=1, text_before="a", text_after=END
    )
    store.review.add_candidates(shard, [made], 1)
    store.close()
    page = client.get(f"/review?dataset=1&run={shard.run_id}", headers=HTML).text
    assert END not in page
    (card,) = list(brought(page).values())[1]["cards"]
    assert END in "".join(text for text, _ in card["texts"]["after"])


def test_what_the_routes_refuse_is_left_to_the_script(client: TestClient, ids: list[int]) -> None:
    page = client.get("/review?dataset=99", headers=HTML)
    assert page.status_code == 200 and brought(page.text) == {}


# Scripts


def test_every_script_can_be_joined_with_what_it_imports() -> None:
    scripts = [name for name in static.files() if name.endswith(".js")]
    assert len(scripts) > 25
    for name in scripts:
        static.joined(name)
    card = static.joined("review_card/card.js").decode()
    assert card.count('"dom.js": ') == 1 and '"editor/spans.js": ' in card, "what is imported later comes along"


@pytest.mark.parametrize(
    "line", ['import dom from "./dom.js";', "export default 1;", 'import { a,\n b } from "./dom.js";']
)
def test_a_script_that_is_written_otherwise_is_told(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(static, "files", lambda: {"one.js": line.encode(), "dom.js": b""})
    with pytest.raises(ValueError, match=r"one\.js has '(im|ex)port"):
        static.joined.__wrapped__("one.js")


def test_a_versioned_address_is_kept_for_good_and_an_old_one_still_works(client: TestClient) -> None:
    now = client.get(static.address("review_card/card.js"))
    assert "immutable" in now.headers["cache-control"]
    old = client.get("/studio-static/0123456789abcdef/review_card/card.js")
    assert old.content == now.content and old.headers["cache-control"] == "no-cache"


# Rules as people write them


def test_a_bound_that_only_keeps_zero_out_is_said_in_words() -> None:
    tiny = Rule(filter="two_step", at_least=1e-6)
    assert views.bounds(tiny) == "> 0" and views.bounds(Rule(filter="seam", at_least=1e-3)) == "≥ 0.001"
    assert "must be above 0" in views._comparison(tiny, -2.0)
