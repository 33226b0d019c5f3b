#!/usr/bin/env python3
"""Draws what tier_replay measured: hit rate of the device tier against its size.

usage: tests/bench/plot_tier.py tier_replay.json > docs/images/device_tier.svg
"""
import json
import re
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 440, 64, 250, 44, 56
# Policy and unit, name, colour (Okabe and Ito), dashes.
LINES = [
    ("ours", 1, "the tier, units of 1 token", "#56B4E9", ""),
    ("ours", 4, "the tier, units of 4 (default)", "#0072B2", ""),
    ("ours", 16, "the tier, units of 16", "#000000", ""),
    ("lru", 4, "LRU, units of 4", "#D55E00", "6 4"),
    ("sieve", 4, "SIEVE, units of 4", "#009E73", "6 4"),
    ("fifo", 4, "FIFO, units of 4", "#CC79A7", "6 4"),
]


def points(numbers, policy, unit):
    """(size in steps, share of the keys found), ascending."""
    pattern = re.compile(r"hit_%s_unit%d_x([0-9.]+)$" % (policy, unit))
    found = ((pattern.match(key), value) for key, value in numbers.items())
    return sorted((float(match.group(1)), value) for match, value in found if match)


def main():
    with open(sys.argv[1]) as file:
        numbers = json.load(file)
    drawn = [(points(numbers, policy, unit), name, colour, dashes) for policy, unit, name, colour, dashes in LINES]
    most = max(x for line, _, _, _ in drawn for x, _ in line)

    def place(x, y):
        return LEFT + (WIDTH - LEFT - RIGHT) * x / most, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y

    def text(x, y, anchor, words, more=""):
        return '<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>' % (x, y, anchor, more, words)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">'
           % (WIDTH, HEIGHT), '<rect width="100%" height="100%" fill="#fff"/>']
    out.append(text(LEFT, TOP - 18, "start", "Device tier: keys found, by its size", 'font-size="15"'))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "middle",
                    "size, in what one step attends (%.1f MiB)" % numbers["step_mib"]))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(text(18, middle, "middle", "share of the keys", 'transform="rotate(-90 18 %.1f)"' % middle))
    for tenth in range(0, 11, 2):
        x, y = place(0, tenth / 10)
        out.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#ddd"/>' % (x, y, WIDTH - RIGHT, y))
        out.append(text(x - 8, y + 4, "end", "%.1f" % (tenth / 10)))
    for step in range(0, int(most) + 1):
        x, y = place(step, 0)
        out.append(text(x, y + 18, "middle", step))
    for i, (line, name, colour, dashes) in enumerate(drawn):
        stroke = 'fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"' % (colour, dashes)
        out.append('<polyline points="%s" %s/>' % (" ".join("%.1f,%.1f" % place(x, y) for x, y in line), stroke))
        y = TOP + 20 * i + 8
        out.append('<polyline points="%d,%d %d,%d" %s/>' % (WIDTH - RIGHT + 10, y, WIDTH - RIGHT + 34, y, stroke))
        out.append(text(WIDTH - RIGHT + 40, y + 4, "start", name))
    print("\n".join(out) + "\n</svg>")


if __name__ == "__main__":
    main()
