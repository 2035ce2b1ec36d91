"""Published tables and the result files from which they are made agree."""

import json
import shutil

import pytest
from _support import data_path

from benchmarks import pages, publish
from snnjax.experiments import MissingDataError

MARKED = [page for page in pages.pages() if pages.MARK.search(page.read_text())]


@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_tables_are_those_of_the_result_files(page):
    text = page.read_text()
    assert pages.filled(text) == text, "run python -m benchmarks.pages"


def test_every_table_is_on_a_page_and_says_where_it_is_from():
    shown = [found[1] for page in MARKED for found in pages.MARK.findall(page.read_text())]
    assert set(shown) == set(pages.TABLES)
    sources = json.loads((pages.RESULTS / "sources.json").read_text())
    other = {"headline", "speed-summary", "statements", "statement-count", "model-commands"}
    assert set(sources) == set(pages.TABLES) - other
    for source in sources.values():
        assert all((pages.RESULTS / file).exists() for file in source["files"])


def test_a_mark_is_replaced_and_the_rest_stays():
    text = "a\n<!-- table: ensemble -->\nold\n<!-- end -->\nb <!-- end -->\n"
    new = pages.filled(text)
    assert new.startswith("a\n<!-- table: ensemble -->\n\n| job |")
    assert new.endswith("\n\n<!-- end -->\nb <!-- end -->\n")
    assert "old" not in new
    assert pages.filled(new) == new
    with pytest.raises(KeyError, match="unknown"):
        pages.filled("<!-- table: unknown -->\n<!-- end -->")


def test_only_statements_of_the_paper_count():
    rows = ["| A | P | holds | 1 |", "| B | R | does not hold | 2 |", "| C | ours | holds | 3 |"]
    table = ["| statement | source | verdict | here |", "|---|---|---|---|", *rows]
    other = ["| D | P | holds |", "| holds | holds | 3 | 4 |"]
    counted = publish.verdicts_of("\n".join([*table, "", *other]))
    assert counted == {"holds": 1, "does not hold": 1}
    assert publish.verdicts_of("\n".join(table), "ours") == {"holds": 1}


@pytest.mark.more
def test_published_reports_are_those_of_their_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("SNNJAX_DATA", str(data_path("shd_format").parent))
    copy = tmp_path / "results"
    shutil.copytree(pages.RESULTS_PAGES, copy, ignore=shutil.ignore_patterns("*.png"))
    try:
        publish.again(copy)
    except MissingDataError as error:
        pytest.skip(str(error))
    for report in copy.rglob("*.md"):
        published = pages.RESULTS_PAGES / report.relative_to(copy)
        assert report.read_text() == published.read_text(), published
