"""The plot of `benchmark input --what=growth`."""

from collections.abc import Sequence

from tl_distributed.reporting.spread import Spread


def plot_growth(
    path: str,
    records: Sequence[int],
    microseconds: Sequence[Sequence[float]],
    megabytes: Sequence[float],
) -> None:
    """Writes a PNG: time an image (every turn, and the median) and memory, by number of records.

    Args:
      path: Of the file.
      records: Sizes of the set.
      microseconds: Of an image, one list of turns a size.
      megabytes: Most memory held over the base, one a size.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from tl_distributed.files import write_file

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    time_axes, memory_axes = figure.subplots(1, 2)
    for size, values in zip(records, microseconds, strict=True):
        time_axes.plot([size] * len(values), values, ".", color="0.6")
    time_axes.plot(records, [Spread.of(values).median for values in microseconds], "o-")
    time_axes.set_ylabel("microseconds an image")
    memory_axes.plot(records, megabytes, "o-")
    memory_axes.set_ylabel("memory over the base, MB")
    for axes in (time_axes, memory_axes):
        axes.set_xscale("log")
        axes.set_xlabel("records in the set")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_file(path, content.getvalue())
