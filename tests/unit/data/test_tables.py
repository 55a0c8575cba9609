import pytest

from ddpm_from_scratch.data.images import DataError
from ddpm_from_scratch.data.tables import file_path, is_missing, path_column, read_table


def table_of(tmp_path, content, name="t.csv"):
    (tmp_path / name).write_text(content)
    return read_table(str(tmp_path / name))


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "10", "9"], [1, 10, 9]),
        (["-1", "+2", "0"], [-1, 2, 0]),
        (["1", "", "2"], [1, None, 2]),
        (["1.0", "2"], [1.0, 2.0]),
        ([".5", "1e3"], [0.5, 1000.0]),
        (["007", "8"], ["007", "8"]),
        (["1", "one"], ["1", "one"]),
        (["nan", "None"], ["nan", "None"]),
        (["0.5", "01"], ["0.5", "01"]),
    ],
)
def test_cells_are_numbers_if_all_are(tmp_path, cells, values):
    found = table_of(tmp_path, "x,y\n" + "".join(f"{cell},k\n" for cell in cells))["x"]
    assert found == values and [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_separator_and_quoted_cells(tmp_path, separator):
    content = f'path{separator}label\r\n"a{separator}b.png"{separator}x\r\n\r\n'
    assert table_of(tmp_path, content) == {"path": [f"a{separator}b.png"], "label": ["x"]}


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "t.csv", "is empty"),
        ("a,a\n1,2\n", "t.csv", "two columns of one name"),
        ("a,b\n1\n", "t.csv", "row 1, has 1 cells, but 2"),
        ('{"a": 1}\n[1]\n', "t.jsonl", "line 2, is no JSON object"),
        ('{"a": 1}\n{"a"\n', "t.jsonl", "line 2, is no JSON:"),
        ("words", "t.parquet", "cannot be read"),
    ],
)
def test_what_is_no_table_is_one_line(tmp_path, content, name, words):
    with pytest.raises(DataError, match=words):
        table_of(tmp_path, content, name)


def test_bytes_that_are_no_text_are_one_line(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DataError, match="cannot be read"):
        read_table(str(tmp_path / "t.csv"))


def test_rows_of_json_may_lack_columns(tmp_path):
    assert table_of(tmp_path, '{"a": 1}\n\n{"b": 2}\n', "t.jsonl") == {"a": [1, None], "b": [None, 2]}


def test_the_column_that_was_asked_for_comes_first():
    columns = {"image": ["a"], "photo": ["b"], "path": [1]}
    assert path_column(columns, "photo") == "photo" and path_column(columns, "image_column") == "image"
    assert path_column({"path": [1]}, "image") is None


def test_paths_are_plain():
    assert file_path(".\\a\\b.png", "row 1") == "a/b.png" and file_path("./c d.png", "row 1") == "c d.png"
    for value in (None, " ", 3, "s3://x/a.png"):
        with pytest.raises(DataError, match="row 1"):
            file_path(value, "row 1")


def test_missing_cells():
    assert [is_missing(value) for value in (None, float("nan"), " ", 0, "0", False)] == [True] * 3 + [
        False
    ] * 3
