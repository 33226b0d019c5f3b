// Line plots as SVG, for documents.
#ifndef HGA_TESTS_QUALITY_SVG_PLOT_H_
#define HGA_TESTS_QUALITY_SVG_PLOT_H_

#include <string>
#include <vector>

namespace hga {

struct PlotPoint {
  double x = 0, y = 0;
  double low = 0, high = 0;  // ends of the error bar; equal: none
};

struct PlotSeries {
  std::string name;
  std::vector<PlotPoint> points;  // ascending by x
};

struct Plot {
  std::string title, x_label, y_label;
  // Both axes are logarithmic. What lies below y_floor is drawn on it.
  double y_floor = 1e-4;
  std::vector<PlotSeries> series;
};

// A whole SVG file. Points with x <= 0, or that are not finite, are left out.
std::string SvgOf(const Plot& plot);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_SVG_PLOT_H_
