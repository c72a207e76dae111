import json
from pathlib import Path

import pytest

from twotower.data.trec_collection import Trec
from twotower.errors import DataError

MARKED = """<DOC>
<DOCNO> FT-1 </DOCNO>
<HEADLINE>Cold &amp; wet</HEADLINE>
<TEXT>
Water is <P>wet.
</TEXT>
<TEXT>And cold.</TEXT>
</DOC>
<doc><docno>FT-2</docno><text>fish &lt; birds</text></doc>

<DOC>
<DOCNO>FT-3</DOCNO>
</DOC>
"""
JSON = [
    {"docno": "FT-1", "title": "Cold & wet", "contents": "Water is wet. And cold."},
    {"docno": "FT-2", "contents": "fish < birds"},
    {"docno": "FT-3"},
]
TSV = "FT-1\tCold & wet\tWater is wet. And cold.\nFT-2\t\tfish < birds\nFT-3\t\t\n"
TOPICS = """<top>
<num> Number: 301
<title> cold water

<desc> Description:
What is cold
and wet?

<narr> Narrative:
Ice is not.
</top>
<top><num>302</num><title>birds</title><desc>Which?</desc></top>
"""
XML = """<?xml version="1.0"?>
<topics>
<topic number="301" type="faceted">
  <query>cold
    water</query>
  <description>What is cold?</description>
  <subtopic number="1">ice</subtopic>
</topic>
<topic number=" 302 "><query>birds</query></topic>
</topics>
"""
QRELS = "301 0 FT-1 2\n301 0 FT-2 -1\n302 0 FT-2 1\n"


def write(folder: Path, documents=("trec", MARKED), topics=("txt", TOPICS), qrels=QRELS) -> Path:
    (folder / f"documents.{documents[0]}").write_text(documents[1])
    (folder / f"topics.{topics[0]}").write_text(topics[1])
    (folder / "qrels.txt").write_text(qrels)
    return folder


@pytest.mark.parametrize(
    "documents",
    [("trec", MARKED), ("jsonl", "".join(json.dumps(row) + "\n" for row in JSON)), ("tsv", TSV)],
)
def test_every_form_of_documents_is_the_same(tmp_path, documents):
    found = Trec().read(write(tmp_path, documents))
    assert found.items.rows() == [
        ("FT-1", "Cold & wet", "Cold & wet Water is wet. And cold."),
        ("FT-2", None, "fish < birds"),
        ("FT-3", None, ""),
    ]
    assert found.notes[-1] == "1 of 3 documents have no text; they are kept"


@pytest.mark.parametrize(
    "topics",
    [
        ("txt", TOPICS),
        ("tsv", "301\tcold water\n302\tbirds\n"),
        ("jsonl", '{"qid": "301", "query": "cold water"}\n{"qid": 302, "query": "birds"}\n'),
        ("xml", XML),
    ],
)
def test_every_form_of_topics_is_the_same(tmp_path, topics):
    found = Trec().read(write(tmp_path, topics=topics))
    assert found.queries.rows() == [("301", "cold water"), ("302", "birds")]
    assert found.events.select("query", "doc", "grade", "part").rows() == [
        ("301", "FT-1", 2, "test"),
        ("301", "FT-2", -1, "test"),
        ("302", "FT-2", 1, "test"),
    ]


def test_another_field_of_the_topics(tmp_path):
    found = Trec(topic_field="desc").read(write(tmp_path))
    assert found.queries["query_text"].to_list() == ["What is cold and wet?", "Which?"]
    with pytest.raises(DataError, match=r"topics.txt:12 \[column query_text\]: no value"):
        Trec(topic_field="narr").read(tmp_path)


def test_tsv_without_titles(tmp_path):
    found = Trec().read(write(tmp_path, ("tsv", "FT-1\tone\nFT-2\ttwo\n")))
    assert found.items.rows() == [("FT-1", None, "one"), ("FT-2", None, "two")]


def test_files_by_name_and_by_part(tmp_path):
    write(tmp_path)
    (tmp_path / "documents.trec").rename(tmp_path / "ft.sgml")
    (tmp_path / "train.qrels").write_text("302 0 FT-3 1\n")
    found = Trec(documents="ft.sgml", qrels={"train": "train.qrels", "test": "qrels.txt"}).read(tmp_path)
    assert found.events["part"].to_list() == ["train", "test", "test", "test"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"documents": ("trec", MARKED + "<DOC><DOCNO>FT-4</DOCNO>")},
            "trec:14: the record <DOC> is not closed",
        ),
        ({"documents": ("trec", MARKED + "<DOC></DOC>")}, r"trec:14 \[column doc\]: no value"),
        (
            {"documents": ("trec", MARKED + "<DOC><DOCNO>FT-1</DOCNO></DOC>")},
            "'FT-1' stands here a second time",
        ),
        ({"documents": ("tsv", TSV + "FT-4\n")}, "tsv:4: found 1 fields, expected 3"),
        ({"topics": ("txt", TOPICS + "<top><num>303</top>")}, r"txt:13 \[column query_text\]: no value"),
        ({"qrels": QRELS + "301 0 FT-9 1\n"}, "'FT-9' is no doc of the collection"),
    ],
)
def test_what_is_broken_is_named_or_counted(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        Trec().read(tmp_path)
    found = Trec().read(tmp_path, "skip")
    assert (len(found.items), len(found.queries), len(found.events)) == (3, 2, 3)
    assert sum("1 broken row dropped" in note for note in found.notes) == 1


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ('{"docno": "FT-0", "contents":', "jsonl:1: not valid JSON"),
        ('"docno": "FT-0"}', "jsonl:1: not valid JSON"),
        ('["FT-0"]', "jsonl:1: found list, expected a JSON object"),
        ('{"contents": "no id"}', r"jsonl:1 \[column docno\]: no value"),
    ],
)
def test_a_broken_first_line_is_skipped_as_any_other(tmp_path, first, message):
    rows = "".join(json.dumps(row) + "\n" for row in JSON)
    write(tmp_path, ("jsonl", f"\ufeff{first}\n{rows}"))
    with pytest.raises(DataError, match=message):
        Trec().read(tmp_path)
    found = Trec().read(tmp_path, "skip")
    assert found.items["doc"].to_list() == ["FT-1", "FT-2", "FT-3"]
    assert sum("1 broken row dropped" in note for note in found.notes) == 1


def test_a_first_document_without_text_says_nothing_about_the_others(tmp_path):
    rows = '{"docno": "FT-1", "title": "Cold"}\n{"docno": "FT-2", "contents": "wet"}\n'
    found = Trec().read(write(tmp_path, ("jsonl", rows)))
    assert found.items.rows() == [("FT-1", "Cold", "Cold"), ("FT-2", None, "wet")]


@pytest.mark.parametrize(
    ("topic", "asked"),
    [
        ('<num>301</num><title>a < b & "c"</title><desc>d</desc>', 'a < b & "c"'),
        ('<num>301\n<title> a < b & "c"\n\n<desc> d', 'a < b & "c"'),
        ("<title> cold <i>wet</i> &lt;water&gt;\n<num>301", "cold wet <water>"),
        ("<num>301<title>Topic: last of all", "last of all"),
    ],
)
def test_a_title_reaches_to_its_end_or_the_next_field(tmp_path, topic, asked):
    topics = f"<top>{topic}</top>\n<top><num>302<title>birds</top>"
    found = Trec().read(write(tmp_path, topics=("txt", topics)))
    assert found.queries.rows() == [("301", asked), ("302", "birds")]


def test_xml_topics_by_field_and_broken_ones(tmp_path):
    found = XML.replace(
        '<topic number=" 302', "<topic number='303'><query>a & b</query></topic>\n<topic num=\"302"
    )
    write(tmp_path, topics=("xml", found.replace("</topic>\n</topics>", "</topic><topic number='4'>")))
    with pytest.raises(DataError, match=r"topics.xml:9: the record <topic> is not closed, or not XML"):
        Trec().read(tmp_path)
    read = Trec().read(tmp_path, "skip")
    assert read.queries["query"].to_list() == ["301", "302"]
    assert any("2 broken rows dropped, first in line 9" in note for note in read.notes)
    write(tmp_path, topics=("xml", XML))
    with pytest.raises(DataError, match=r"topics.xml:9 \[column query_text\]: no value"):
        Trec(topic_field="desc").read(tmp_path)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ('{"name": 1, "text": "x"}\n', "no key _id or id"),
        ('{"id": 1, "txt": "x"}\n', "no key text or contents.*did you mean 'txt'"),
        ("{\n", "not valid JSON"),
        ("<html></html>", "no record <DOC>"),
        ("", "the file is empty"),
    ],
)
def test_a_file_of_no_known_form(tmp_path, documents, message):
    with pytest.raises(DataError, match=message):
        Trec().read(write(tmp_path, ("txt", documents)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file documents.trec or documents.xml"):
        Trec().read(tmp_path)
