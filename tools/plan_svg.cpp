// SPDX-License-Identifier: Apache-2.0
// The curve of a step's time over l, as a drawing that stands alone: polylines "serial" and "streaming", and the
// optimum of each as a circle, "serial_best" and "best".
#include <algorithm>
#include <cmath>
#include <iterator>

#include <fmt/format.h>

#include "tools/plan.h"

namespace iokv {
namespace {

constexpr const char* kSerialColor = "#b5651d";
constexpr const char* kStreamingColor = "#1f5fa8";
constexpr double kLeft = 70, kTop = 60, kWidth = 560, kHeight = 300;

// Text of a file may hold anything; in XML three letters mean something else.
std::string escaped(const std::string& text) {
  std::string safe;
  for (char letter : text) {
    safe += letter == '&' ? "&amp;" : letter == '<' ? "&lt;" : letter == '>' ? "&gt;" : std::string(1, letter);
  }
  return safe;
}

// 1, 2 or 5 times a power of ten, so that about five steps reach `range`.
double step_of(double range) {
  const double power = std::pow(10, std::floor(std::log10(range / 5)));
  for (double step : {1.0, 2.0, 5.0}) {
    if (range / (step * power) <= 5.5) return step * power;
  }
  return 10 * power;
}

double x_of(double share) { return kLeft + kWidth * share; }

// Where things are on the drawing; ms grow upwards to top_ms.
struct Scale {
  double top_ms;

  double y_of(double ms) const { return kTop + kHeight * (1 - ms / top_ms); }
};

std::string axes(const Scale& scale) {
  std::string svg;
  auto out = std::back_inserter(svg);
  const double step = step_of(scale.top_ms);
  for (double ms = 0; ms <= scale.top_ms; ms += step) {
    const double y = scale.y_of(ms);
    fmt::format_to(out, R"(<path d="M{} {:.1f}h{}" stroke="#ddd"/>)" "\n", kLeft, y, kWidth);
    fmt::format_to(out, R"(<text x="{}" y="{:.1f}" text-anchor="end">{:g}</text>)" "\n", kLeft - 8, y + 4, ms);
  }
  const double bottom = kTop + kHeight, middle = kTop + kHeight / 2;
  for (int i = 0; i <= 5; ++i) {
    fmt::format_to(out, R"(<text x="{:.1f}" y="{}" text-anchor="middle">{} %</text>)" "\n", x_of(i / 5.0), bottom + 18,
                   i * 20);
  }
  fmt::format_to(out, R"(<text x="{}" y="{}" text-anchor="middle">cached tokens recomputed from X (l/s)</text>)" "\n",
                 x_of(0.5), bottom + 38);
  fmt::format_to(out, R"svg(<text x="18" y="{0}" text-anchor="middle" transform="rotate(-90 18 {0})">{1}</text>)svg" "\n",
                 middle, "ms a step");
  return svg;
}

std::string polyline(const Scale& scale, const char* id, const char* color, const std::vector<double>& values) {
  std::string points;
  const double last = static_cast<double>(values.size() - 1);
  for (size_t i = 0; i < values.size(); ++i) {
    points += fmt::format("{}{:.1f},{:.1f}", i == 0 ? "" : " ", x_of(static_cast<double>(i) / last),
                          scale.y_of(values[i]));
  }
  return fmt::format(R"(<polyline id="{}" points="{}" fill="none" stroke="{}" stroke-width="2"/>)" "\n", id, points,
                     color);
}

std::string marker(const Scale& scale, const char* id, const char* color, double share, double ms) {
  return fmt::format(R"(<circle id="{}" cx="{:.1f}" cy="{:.1f}" r="5" fill="{}"/>)" "\n", id, x_of(share),
                     scale.y_of(ms), color);
}

std::string label(double y, const char* color, const std::string& text) {
  return fmt::format(R"(<text x="{}" y="{}" fill="{}">{}</text>)" "\n", kLeft + 10, y, color, escaped(text));
}

}  // namespace

std::string plan_svg(const PlanQuestion& question, const PlanCurve& curve) {
  const Scale scale{1.05 * std::max(*std::max_element(curve.serial_ms.begin(), curve.serial_ms.end()),
                                    *std::max_element(curve.streaming_ms.begin(), curve.streaming_ms.end()))};
  std::string svg =
      R"(<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 430" font-family="sans-serif" font-size="12">)" "\n"
      R"(<rect width="660" height="430" fill="#fff"/>)" "\n";
  svg += fmt::format(R"(<text x="{}" y="24" font-size="15">{} on {}</text>)" "\n", kLeft, escaped(question.model.name),
                     escaped(question.hardware.description));
  svg += fmt::format(R"(<text x="{}" y="44">{} sequences of {} cached tokens, all on the host</text>)" "\n", kLeft,
                     question.batch, curve.context);
  svg += axes(scale);
  svg += polyline(scale, "serial", kSerialColor, curve.serial_ms);
  svg += polyline(scale, "streaming", kStreamingColor, curve.streaming_ms);
  svg += marker(scale, "serial_best", kSerialColor, curve.serial_share, curve.serial_best_ms);
  svg += marker(scale, "best", kStreamingColor, curve.best_share, curve.best_ms);
  const double bottom = kTop + kHeight;
  svg += label(bottom - 28, kSerialColor, fmt::format("layer after layer, X waited for: least at {:.1f} %, {:.1f} ms",
                                                      100 * curve.serial_share, curve.serial_best_ms));
  svg += label(bottom - 12, kStreamingColor, fmt::format("streaming: least at {:.1f} %, {:.1f} ms",
                                                         100 * curve.best_share, curve.best_ms));
  svg += "</svg>\n";
  return svg;
}

}  // namespace iokv
