#include "tests/quality/svg_plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace hga {
namespace {

constexpr double kWidth = 760, kHeight = 440, kLeft = 78, kRight = 190, kTop = 44, kBottom = 56;
// Distinct also in grey and for the colour-blind (Okabe and Ito).
constexpr const char* kColours[] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                    "#E69F00", "#56B4E9", "#000000", "#8C6D31"};

std::string Escaped(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

// Logarithmic, from `low` at `from` to `high` at `to`.
struct Axis {
  double low = 1, high = 10, from = 0, to = 1;
  double At(double value) const {
    const double share = (std::log(std::clamp(value, low, high)) - std::log(low)) / (std::log(high) - std::log(low));
    return from + (to - from) * share;
  }
};

bool Drawn(const PlotPoint& p) { return p.x > 0 && std::isfinite(p.x) && std::isfinite(p.y); }

class Drawing {
 public:
  explicit Drawing(const Plot& plot) : plot_(plot) {
    double x_low = 1e300, x_high = 0, y_high = plot.y_floor * 10;
    for (const PlotSeries& series : plot.series) {
      for (const PlotPoint& p : series.points) {
        if (!Drawn(p)) continue;
        x_low = std::min(x_low, p.x);
        x_high = std::max(x_high, p.x);
        y_high = std::max({y_high, p.y, p.high});
      }
    }
    if (x_high == 0) x_low = x_high = 1;
    x_ = {x_low / 1.15, x_high * 1.15, kLeft, kWidth - kRight};
    y_ = {plot.y_floor, y_high * 1.3, kHeight - kBottom, kTop};
  }

  std::string Draw() {
    absl::StrAppendFormat(&out_,
                          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" font-family=\"sans-serif\" "
                          "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                          kWidth, kHeight);
    Text(kLeft, kTop - 18, "start", plot_.title, "font-size=\"15\"");
    Text((kLeft + kWidth - kRight) / 2, kHeight - 14, "middle", plot_.x_label, "");
    const double middle = (kTop + kHeight - kBottom) / 2;
    Text(18, middle, "middle", plot_.y_label, absl::StrFormat("transform=\"rotate(-90 18 %g)\"", middle));
    DrawGrid();
    for (size_t i = 0; i < plot_.series.size(); ++i) DrawSeries(i);
    return out_ + "</svg>\n";
  }

 private:
  void Text(double x, double y, const char* anchor, const std::string& text, const std::string& more) {
    absl::StrAppendFormat(&out_, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" %s>%s</text>\n", x, y, anchor, more,
                          Escaped(text));
  }

  void Line(double x1, double y1, double x2, double y2, const char* style) {
    absl::StrAppendFormat(&out_, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2, y2, style);
  }

  void DrawGrid() {
    const char* grid = "stroke=\"#ddd\"";
    for (double x = 1; x <= x_.high; x *= 2) {
      if (x < x_.low) continue;
      Line(x_.At(x), y_.from, x_.At(x), y_.to, grid);
      Text(x_.At(x), y_.from + 18, "middle", absl::StrFormat("%g", x), "");
    }
    for (int decade = static_cast<int>(std::floor(std::log10(y_.low))); std::pow(10, decade) <= y_.high; ++decade) {
      for (const double step : {1.0, 3.0}) {
        const double y = step * std::pow(10, decade);
        if (y < y_.low * 0.999 || y > y_.high) continue;
        Line(x_.from, y_.At(y), x_.to, y_.At(y), grid);
        Text(x_.from - 8, y_.At(y) + 4, "end", absl::StrFormat("%g", y), "");
      }
    }
    Line(x_.from, y_.from, x_.to, y_.from, "stroke=\"#333\"");
    Line(x_.from, y_.from, x_.from, y_.to, "stroke=\"#333\"");
  }

  void DrawSeries(size_t i) {
    const PlotSeries& series = plot_.series[i];
    const std::string colour = kColours[i % std::size(kColours)];
    const std::string stroke = absl::StrFormat("stroke=\"%s\" stroke-width=\"1.8\"", colour);
    std::string path;
    for (const PlotPoint& p : series.points) {
      if (!Drawn(p)) continue;
      const double x = x_.At(p.x), y = y_.At(p.y);
      absl::StrAppendFormat(&path, "%s%.1f,%.1f", path.empty() ? "" : " ", x, y);
      if (p.low < p.high) Line(x, y_.At(p.low), x, y_.At(p.high), stroke.c_str());
      absl::StrAppendFormat(&out_, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\"/>\n", x, y, colour);
    }
    absl::StrAppendFormat(&out_, "<polyline points=\"%s\" fill=\"none\" %s/>\n", path, stroke);
    const double y = kTop + 10 + 20 * static_cast<double>(i), x = kWidth - kRight + 16;
    Line(x, y, x + 22, y, stroke.c_str());
    Text(x + 30, y + 4, "start", series.name, "");
  }

  const Plot& plot_;
  Axis x_, y_;
  std::string out_;
};

}  // namespace

std::string SvgOf(const Plot& plot) { return Drawing(plot).Draw(); }

}  // namespace hga
