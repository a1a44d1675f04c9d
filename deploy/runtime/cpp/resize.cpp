// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
//
// Antialiased resizing in two passes, as Pillow does it: each output pixel is a weighted mean over the filter's support,
// which grows with the reduction; weights are rounded to 22 binary places, sums to 8 bits after each pass, across first.
#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

#include "image.hpp"

namespace {

constexpr double kPi = 3.141592653589793238462643;
constexpr int kPlaces = 32 - 8 - 2;

struct Filter {
    double support;
    std::function<double(double)> weight;
};

double triangle(double x) { return std::max(0.0, 1.0 - std::abs(x)); }

double cubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(x * kPi) / (x * kPi); }

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

Filter filter_of(const std::string& name) {
    if (name == "bilinear") return {1.0, triangle};
    if (name == "bicubic") return {2.0, cubic};
    if (name == "lanczos") return {3.0, lanczos};
    throw std::runtime_error("contract.json: interpolation " + name + " is not one that this program knows");
}

// Which input pixels make an output pixel, and how much each counts.
struct Window {
    int first;
    std::vector<std::int32_t> weights;
};

// The part from `start` to `end` of a side of `size` pixels becomes `out` pixels. Pillow keeps the part's ends as float.
std::vector<Window> windows_of(int size, float start, float end, int out, const Filter& filter) {
    const double scale = static_cast<double>(end - start) / out;
    const double stretch = std::max(scale, 1.0);
    const double support = filter.support * stretch;
    std::vector<Window> windows;
    windows.reserve(static_cast<std::size_t>(out));
    for (int position = 0; position < out; ++position) {
        const double centre = start + (position + 0.5) * scale;
        const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
        const int last = std::min(static_cast<int>(centre + support + 0.5), size);
        std::vector<double> exact;
        double sum = 0.0;
        for (int index = first; index < last; ++index) {
            exact.push_back(filter.weight((index - centre + 0.5) * (1.0 / stretch)));
            sum += exact.back();
        }
        Window window{first, {}};
        for (double weight : exact) {
            if (sum != 0.0) weight /= sum;
            window.weights.push_back(static_cast<std::int32_t>(weight * (1 << kPlaces) + (weight < 0 ? -0.5 : 0.5)));
        }
        windows.push_back(std::move(window));
    }
    return windows;
}

std::uint8_t rounded(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kPlaces, 0, 255)); }

// `step` is how far apart, in bytes, the pixels of a window are.
void weigh(const std::uint8_t* pixel, std::size_t step, const std::vector<std::int32_t>& weights, std::uint8_t* out) {
    std::int32_t sums[3] = {1 << (kPlaces - 1), 1 << (kPlaces - 1), 1 << (kPlaces - 1)};
    for (const std::int32_t weight : weights) {
        for (int channel = 0; channel < 3; ++channel) sums[channel] += pixel[channel] * weight;
        pixel += step;
    }
    for (int channel = 0; channel < 3; ++channel) out[channel] = rounded(sums[channel]);
}

struct Box {
    float left, top, right, bottom;
};

Image nearest(const Image& photo, int width, int height, const Box& box) {
    Image out(width, height);
    const double across = static_cast<double>(box.right - box.left) / width;
    const double down = static_cast<double>(box.bottom - box.top) / height;
    double y = box.top + down * 0.5;
    for (int row = 0; row < height; ++row, y += down) {
        double x = box.left + across * 0.5;
        for (int column = 0; column < width; ++column, x += across) {
            const int from_x = static_cast<int>(x), from_y = static_cast<int>(y);
            if (x >= 0 && y >= 0 && from_x < photo.width && from_y < photo.height) {
                std::copy_n(photo.at(from_x, from_y), 3, out.at(column, row));
            }
        }
    }
    return out;
}

Image resized(const Image& photo, int width, int height, const std::string& interpolation, const Box& box) {
    const bool whole = box.left == 0 && box.top == 0 && box.right == photo.width && box.bottom == photo.height;
    if (whole && width == photo.width && height == photo.height) return photo;
    if (interpolation == "nearest") return nearest(photo, width, height, box);
    const Filter filter = filter_of(interpolation);
    const auto columns = windows_of(photo.width, box.left, box.right, width, filter);
    const auto rows = windows_of(photo.height, box.top, box.bottom, height, filter);
    const int first = rows.front().first, last = rows.back().first + static_cast<int>(rows.back().weights.size());
    Image narrow(width, last - first);  // only the rows that the second pass will ask for
    if (width == photo.width && box.left == 0 && box.right == photo.width) {
        std::copy_n(photo.at(0, first), narrow.rgb.size(), narrow.rgb.data());
    } else {
        for (int y = first; y < last; ++y) {
            for (int x = 0; x < width; ++x) {
                const Window& window = columns[static_cast<std::size_t>(x)];
                weigh(photo.at(window.first, y), 3, window.weights, narrow.at(x, y - first));
            }
        }
    }
    if (height == photo.height && box.top == 0 && box.bottom == photo.height) return narrow;
    Image out(width, height);
    for (int y = 0; y < height; ++y) {
        const Window& window = rows[static_cast<std::size_t>(y)];
        for (int x = 0; x < width; ++x) {
            weigh(narrow.at(x, window.first - first), 3 * static_cast<std::size_t>(width), window.weights, out.at(x, y));
        }
    }
    return out;
}

// Half of a whole number, halves to the even neighbour.
int half_to_even(int number) {
    const int down = number >= 0 ? number / 2 : (number - 1) / 2;
    return number % 2 == 0 ? number / 2 : down + (down % 2 == 0 ? 0 : 1);
}

}  // namespace

Image prepare(const Image& photo, const Rules& rules) {
    if (rules.inside) return photo;
    const Box whole{0, 0, static_cast<float>(photo.width), static_cast<float>(photo.height)};
    if (rules.squash) return resized(photo, rules.width, rules.height, rules.interpolation, whole);
    if (rules.resize < std::max(rules.width, rules.height))
        throw std::runtime_error("contract.json: the crop is larger than the image");
    const int shorter = std::min(photo.width, photo.height), longer = std::max(photo.width, photo.height);
    const double exact = static_cast<double>(static_cast<long long>(rules.resize) * longer) / shorter;
    const int resized_longer = static_cast<int>(exact);
    const bool wide = photo.width > photo.height;
    const int width = wide ? resized_longer : rules.resize, height = wide ? rules.resize : resized_longer;
    const int left = half_to_even(width - rules.width), top = half_to_even(height - rules.height);
    if (static_cast<long long>(width) * height > kMostPixels) {  // a strip of 1 x 10,000 px: cut the crop out of the original
        const double across = static_cast<double>(photo.width) / width, down = static_cast<double>(photo.height) / height;
        const Box box{static_cast<float>(left * across), static_cast<float>(top * down),
                      static_cast<float>((left + rules.width) * across), static_cast<float>((top + rules.height) * down)};
        return resized(photo, rules.width, rules.height, rules.interpolation, box);
    }
    const Image small = resized(photo, width, height, rules.interpolation, whole);
    Image crop(rules.width, rules.height);
    for (int y = 0; y < rules.height; ++y) {
        std::copy_n(small.at(left, top + y), 3 * static_cast<std::size_t>(rules.width), crop.at(0, y));
    }
    return crop;
}
