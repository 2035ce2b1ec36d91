import pytest

from snnjax._files import whole, write_whole


@pytest.mark.parametrize("unique", [False, True])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, unique):
    path = tmp_path / "a.bin"
    write_whole(path, b"old")
    with pytest.raises(TypeError, match="bytes"), whole(path, unique=unique) as file:
        file.write("half")  # pyright: ignore[reportArgumentType]
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"
    with whole(path, unique=unique) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_an_existing_file_is_only_replaced_where_that_is_allowed(tmp_path):
    path = tmp_path / "a.bin"
    write_whole(path, b"old", overwrite=False)
    with pytest.raises(FileExistsError, match=r"a\.bin exists; overwrite=True replaces it"):
        write_whole(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
