"""What a newcomer relies on: the README's table, the names of the packages, the data that ships."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import compose
from compose.models.card import read_card
from compose.models.detect import embedded_folder
from compose.world.concepts import shipped
from compose.world.vocabulary import RARE_TOKENS

ROOT = Path(__file__).parents[1]
LIMIT = 40_000_000  # bytes of all shipped weights together


@pytest.mark.parametrize("document", ["README.md", "docs/world.md"])
def test_documents_say_what_the_code_knows(document: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "update_docs.py"))
    text = (ROOT / document).read_text()
    fresh = script["updated"](text, script["SECTIONS"][document])
    assert fresh == text, "run python scripts/update_docs.py"


def test_the_shipped_text_encoder_knows_every_word_the_documents_list() -> None:
    tokens = json.loads((ROOT / "compose/world/weights/tokenizer/tokenizer.json").read_text())
    known = set(tokens["model"]["vocab"]) | {t["content"] for t in tokens["added_tokens"]}
    words = read_card(embedded_folder()).words
    assert len(words) > 100
    missing = [w for w in (*words, *RARE_TOKENS) if not {w, w + "</w>"} & known]
    assert not missing


def test_folders_with_common_names_are_installed_under_names_of_their_own() -> None:
    script = (ROOT / "setup.py").read_text()
    assert '"compose_app": "app"' in script and '"compose_workflows": "workflows"' in script
    import compose_app
    import compose_workflows

    assert Path(compose_app.__file__).parent.name == "app"
    assert Path(compose_workflows.__file__).parent.name == "workflows"


def test_shipped_weights_are_small_and_complete() -> None:
    world = Path(compose.__file__).parent / "world"
    files = [p for d in ("weights", "adapters") for p in (world / d).rglob("*.safetensors")]
    assert sum(p.stat().st_size for p in files) <= LIMIT
    names = {p.stem for p in (world / "adapters").glob("*.safetensors")}
    made_for_tara = {name for name in names if name.endswith("-tara")}
    assert names - made_for_tara == {concept.name for concept in shipped()}
    characters = {f"{c.name}-tara" for c in shipped() if c.category == "character"}
    assert made_for_tara in (set(), characters)


def test_no_shipped_file_tells_where_it_was_made() -> None:
    settings = list(embedded_folder().glob("*/*.json"))
    assert len(settings) > 4
    assert not [path for path in settings if "_name_or_path" in path.read_text()]
