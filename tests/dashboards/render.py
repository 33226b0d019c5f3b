#!/usr/bin/env python3
"""Draws the dashboards from what a Prometheus recorded: render.py URL BEGIN END FOLDER

Not Grafana: the same panels at the same places with the same queries, drawn by matplotlib, which the pictures say.
"""
import datetime
import os
import re
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import boards  # noqa: E402
import live  # noqa: E402

PAGE, PANEL, INK, FAINT = "#111217", "#181b1f", "#d8d9da", "#34363c"
COLOURS = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#37872d", "#fade2a"]
CELL_INCHES = 0.72, 0.36  # of one of Grafana's 24 columns, and of one of its rows


def scaled(value, steps, names):
    for step, name in zip(steps, names):
        if abs(value) >= step:
            return f"{value / step:.3g} {name}"
    return f"{value / steps[-1]:.3g} {names[-1]}" if value else f"0 {names[-1]}"


def text_of(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.3g}%"
    if unit == "s":
        return scaled(value, [1, 1e-3, 1e-6], ["s", "ms", "µs"])
    if unit in ("bytes", "Bps"):
        end = "/s" if unit == "Bps" else ""
        return scaled(value, [2**30, 2**20, 2**10, 1], ["GiB" + end, "MiB" + end, "KiB" + end, "B" + end])
    if unit.startswith("suffix:"):
        return f"{value:.3g}{unit[7:]}"
    if unit in ("ops", "reqps"):
        return f"{value:.3g}/s"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def legend_of(legend, labels):
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m[1], "?"), legend)


def series_of(prometheus, panel, begin, end, step):
    """[(legend, [(time, value)])], finite values only."""
    found = []
    for target in panel["targets"]:
        for labels, points in sorted(prometheus.over_time(target["expr"], begin, end, step),
                                     key=lambda s: sorted(s[0].items())):
            if points := live.finite(points):
                found.append((legend_of(target["legendFormat"], labels), points))
    return found


def colours_of(panel, series):
    fixed = {o["matcher"]["options"]: o["properties"][0]["value"]["fixedColor"]
             for o in panel["fieldConfig"]["overrides"]}
    return [fixed.get(name, COLOURS[i % len(COLOURS)]) for i, (name, _) in enumerate(series)]


def draw_stat(axes, panel, series):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_axis_off()
    if series:
        points = series[0][1]
        axes.fill_between([t for t, _ in points], [v for _, v in points], color=COLOURS[0], alpha=0.2, linewidth=0)
        axes.set_ylim(0, max(max(v for _, v in points) * 1.6, 1e-9))
        axes.text(0.5, 0.5, text_of(points[-1][1], unit), transform=axes.transAxes, ha="center", va="center",
                  color=COLOURS[0], fontsize=19)


def draw_lines(axes, panel, series, begin, end):
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults["unit"]
    if "stacking" in defaults.get("custom", {}) and series:
        times = sorted({t for _, points in series for t, _ in points})
        rows = [[dict(points).get(t, 0) for t in times] for _, points in series]
        axes.stackplot([datetime.datetime.fromtimestamp(t) for t in times], rows, labels=[name for name, _ in series],
                       colors=colours_of(panel, series), alpha=0.75, linewidth=0)
    else:
        for (name, points), colour in zip(series, colours_of(panel, series)):
            axes.plot([datetime.datetime.fromtimestamp(t) for t, _ in points], [v for _, v in points], label=name,
                      color=colour, linewidth=1.2)
    axes.set_xlim(datetime.datetime.fromtimestamp(begin), datetime.datetime.fromtimestamp(end))
    top = defaults.get("max", max([v for _, points in series for _, v in points] + [0]) * 1.1)
    axes.set_ylim(0, defaults["max"] * 1.02 if "max" in defaults else axes.get_ylim()[1] if top > 0 else 1)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text_of(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M:%S"))
    axes.tick_params(colors=INK, labelsize=6.5, length=0)
    axes.grid(color=FAINT, linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if series:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=5 if panel["gridPos"]["w"] > 6 else 3,
                    fontsize=6.5, frameon=False, labelcolor=INK, handlelength=1, columnspacing=1, handletextpad=0.4)


def draw(prometheus, board, begin, end, path):
    step = max(2, int((end - begin) / 100))
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"]) + 2  # two for the title
    width, height = 24 * CELL_INCHES[0], rows * CELL_INCHES[1]
    figure = plt.figure(figsize=(width, height), facecolor=PAGE)
    figure.text(0.008, 1 - 0.9 / rows, board["title"], color=INK, fontsize=13, va="center")
    figure.text(0.992, 1 - 0.9 / rows, "drawn from live data by tests/dashboards/render.py, without a Grafana server",
                color=INK, fontsize=8, va="center", ha="right", alpha=0.7)
    for panel in board["panels"]:
        at = panel["gridPos"]
        left, top = at["x"] / 24, 1 - (at["y"] + 2) / rows
        if panel["type"] == "row":
            figure.text(left + 0.008, top - 0.6 / rows, panel["title"], color=INK, fontsize=9, va="center",
                        weight="bold")
            continue
        w, h = at["w"] / 24, at["h"] / rows
        figure.add_artist(plt.Rectangle((left + 0.003, top - h + 0.1 / rows), w - 0.006, h - 0.2 / rows, color=PANEL,
                                        transform=figure.transFigure, zorder=-1))
        figure.text(left + 0.009, top - 0.75 / rows, panel["title"], color=INK, fontsize=8.5, va="center")
        stat = panel["type"] == "stat"
        below = 0.3 if stat else 2.1
        axes = figure.add_axes((left + (0.006 if stat else 0.042), top - h + below / rows,
                                w - (0.012 if stat else 0.052), h - (below + 1.3) / rows), facecolor=PANEL)
        series = series_of(prometheus, panel, begin, end, step)
        draw_stat(axes, panel, series) if stat else draw_lines(axes, panel, series, begin, end)
    figure.savefig(path, dpi=96, facecolor=PAGE)
    plt.close(figure)


def main():
    prometheus = live.Prometheus(sys.argv[1])
    begin, end, folder = float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    os.makedirs(folder, exist_ok=True)
    for name, board in boards.load().items():
        draw(prometheus, board, begin, end, os.path.join(folder, f"dashboard_{name}.png"))


if __name__ == "__main__":
    main()
