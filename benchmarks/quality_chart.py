"""The chart of quality over evaluations."""

from pathlib import Path

from ddpm_from_scratch.measures.plots import COLOURS, new_figure


def quality_chart(
    values: dict[str, dict[int, float]], distance: str, path: str | Path, title: str = "", highlight: int = 1
) -> None:
    """Save a chart of a distance over the number of network evaluations as PNG, with the floor at 1.

    Args:
        values: sampler -> number of evaluations -> distance divided by the floor.
        distance: what it is, for the axis.
        path: of the picture.
        title: above the chart.
        highlight: so many samplers, from the first, are drawn in colour and named; of the others the best at
            each number of evaluations is one line.

    Raises:
        ValueError: nothing to draw, or more samplers to name than there are colours.
    """
    names = list(values)
    if not 0 < highlight <= min(len(names), len(COLOURS) - 1):
        raise ValueError(
            f"{highlight} of {len(names)} samplers are to be named, but it must be 1 to "
            f"{min(len(names), len(COLOURS) - 1)}."
        )
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = new_figure()
    axes.axhline(1, color="#777777", linewidth=1, linestyle="--", label="floor (data)")
    others = [values[name] for name in names[highlight:]]
    best = {
        count: min(other[count] for other in others if count in other)
        for count in sorted({count for other in others for count in other})
    }
    lines = [(name, values[name]) for name in names[:highlight]]
    lines += [("best of the others", best)] if best else []
    for (name, of_counts), colour, marker in zip(lines, COLOURS, "osD^vP*X", strict=False):
        counts = sorted(of_counts)
        axes.plot(counts, [of_counts[n] for n in counts], color=colour, marker=marker, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    visited = sorted({count for _, of_counts in lines for count in of_counts})
    axes.set_xticks(visited, [f"{count:,}" for count in visited])
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("network evaluations")
    axes.set_ylabel(f"{distance} / floor")
    axes.set_title(title)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
