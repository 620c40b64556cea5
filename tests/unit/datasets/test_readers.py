"""A table is read line by line: what stands in one changes how no other is read."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from fedcohort.datasets.readers import ENCODINGS, read_rows, read_table
from fedcohort.privacy.errors import DataError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


def texts(path: Path, encoding: str = "utf-8") -> list[list[str]]:
    return [[str(cell) for cell in row] for row in read_rows(path, encoding).frame.to_numpy()]


def test_a_quote_that_does_not_close_ends_with_its_line(table: Path) -> None:
    table.write_bytes(b'a,b\n1,2\n3,"4\n5,6\n"7,8"\n9,"1""0"\n')
    assert texts(table) == [["1", "2"], ["5", "6"], ["9", '1"0']]
    found = read_rows(table)
    assert (found.unparsed, found.ragged) == (1, 1)


def test_a_record_of_another_length_is_no_row(table: Path) -> None:
    table.write_bytes(b"a,b\n1\n1,2,3\n,\n\n  \n4,5\r\n")
    assert texts(table) == [["nan", "nan"], ["4", "5"]]
    assert read_rows(table).ragged == 2


# Each byte is a character of Latin-1, so none of it can be lost.
@pytest.mark.parametrize("encoding", sorted({*ENCODINGS} - {"iso-8859-1"}))
def test_a_byte_that_is_no_text_makes_one_cell_missing(table: Path, encoding: str) -> None:
    bad = b"\x81" if encoding == "cp1252" else b"\xff"
    table.write_bytes(b"a,b\n1,2\n3" + bad + b",4\n5,6\n")
    found = read_rows(table, encoding)
    assert texts(table, encoding) == [["1", "2"], ["nan", "4"], ["5", "6"]]
    assert found.undecodable == {"a": 1}


def test_a_chinese_header_needs_its_encoding_and_gets_it(table: Path) -> None:
    table.write_bytes("姓名,年龄\n张三,40\n".encode("gb18030"))
    with pytest.raises(DataError) as caught:
        read_rows(table, "utf-8")
    assert caught.value.code == "unreadable_table"
    assert "encoding" in caught.value.hint
    assert texts(table, "gb18030") == [["张三", "40"]]


def test_for_people_an_encoding_is_guessed_and_said_so(table: Path) -> None:
    table.write_bytes("姓名,年龄\n张三,40\n".encode("gb18030"))
    frame, notes = read_table(table)
    assert frame["姓名"].tolist() == ["张三"]
    assert [note.code for note in notes] == ["encoding_guessed"]
    assert not read_table(table, "gb18030")[1]


def test_for_people_a_lost_cell_is_a_warning_and_a_lost_record_a_refusal(table: Path) -> None:
    table.write_bytes(b"a,b\n1,\xff\n3,4\n")
    frame, notes = read_table(table, "utf-8")
    assert frame["b"].isna().tolist() == [True, False]
    assert [(note.code, note.column) for note in notes] == [("undecodable_cells", "b")]
    for raw in (b"a,b\n1,2\n3\n", b'a,b\n1,2\n3,"4\n'):
        table.write_bytes(raw)
        with pytest.raises(DataError) as caught:
            read_table(table)
        assert caught.value.code == "unreadable_table"


def test_a_table_without_a_row_is_one_for_a_node(table: Path) -> None:
    table.write_bytes(b"a,b\n")
    assert list(read_rows(table).frame.columns) == ["a", "b"]
    assert read_rows(table).frame.empty
    with pytest.raises(DataError) as caught:
        read_table(table)
    assert caught.value.code == "empty_table"


def test_an_unknown_encoding_is_refused_with_those_there_are(table: Path) -> None:
    table.write_bytes(b"a,b\n")
    with pytest.raises(DataError) as caught:
        read_rows(table, "utf-7")  # shifts between alphabets: a line's reading depends on others
    assert caught.value.code == "unknown_encoding"
    assert "gb18030" in caught.value.hint


def test_a_long_note_is_a_cell(table: Path) -> None:
    table.write_bytes(b"a,b\n1," + b"x" * 300_000 + b"\n")
    assert len(read_table(table)[0]["b"][0]) == 300_000


def test_a_parquet_file_is_not_looked_at_beyond_the_columns_that_are_named(
    tmp_path: Path,
) -> None:
    """DuckDB refuses a column as a whole for one cell that is no text; the guarantee says so."""
    path = tmp_path / "t.parquet"
    query = "SELECT * FROM (VALUES ('1', 'zzzz'), ('2', 'ok')) AS t(a, b)"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION uncompressed)")
    path.write_bytes(path.read_bytes().replace(b"zzzz", b"z\xff\xfez"))
    assert read_rows(path, columns={"a", "none"}).frame["a"].tolist() == ["1", "2"]
    with pytest.raises(DataError) as caught:
        read_rows(path)
    assert caught.value.code == "unreadable_table"


def test_only_columns_that_are_named_are_read_of_a_csv(table: Path) -> None:
    table.write_bytes(b"a,b,c\n1,\xff,3\n")
    found = read_rows(table, columns={"a", "c"})
    assert list(found.frame.columns) == ["a", "c"]
    assert not found.undecodable
