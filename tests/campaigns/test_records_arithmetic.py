"""The arithmetic of large data sets, against sums done by hand."""

from records_arithmetic import RecordsConfig, bytes_of, stored_table, work_table

CONFIG = RecordsConfig(
    pictures=(1_000_000,), nodes=(1, 10), cores=10, gpus=2, gpu_images_per_second=500.0, memory_gbytes=25.0,
    jpeg_kbytes=50.0, original_kbytes=100.0, pixel_side=100, built_per_core=100.0, decoded_per_core=250.0,
)  # fmt: skip


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_what_is_stored():
    assert bytes_of(CONFIG) == {"pixels": 30_000.0, "jpeg": 50_000.0, "original": 100_000.0}
    assert rows(stored_table(CONFIG)) == [
        ["1,000,000", "`pixels`", "30 GB", "200", "8 MB", "94 MB"],
        ["1,000,000", "`jpeg`", "50 GB", "334", "8 MB", "94 MB"],
        ["1,000,000", "`original`", "100 GB", "667", "8 MB", "94 MB"],
    ]


def test_what_a_node_does():
    assert rows(work_table(CONFIG)) == [
        ["1,000,000", "1", "17 min", "17 min", "50 MB/s", "4 of 10", "50%"],
        ["1,000,000", "10", "100 s", "100 s", "50 MB/s", "4 of 10", "50%"],
    ]
