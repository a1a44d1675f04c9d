// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
//
// From a photograph's bytes to upright RGB pixels, and from those to the pixels that the model sees.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// 8-bit RGB, rows from the top, no padding.
struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> rgb;

    Image() = default;
    Image(int width_px, int height_px)
        : width(width_px),
          height(height_px),
          rgb(3 * static_cast<std::size_t>(width_px) * static_cast<std::size_t>(height_px)) {}

    std::uint8_t* at(int x, int y) {
        return rgb.data() + 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x));
    }
    const std::uint8_t* at(int x, int y) const { return const_cast<Image*>(this)->at(x, y); }
};

constexpr long long kMostPixels = 64'000'000;

// How a photograph is resized and cropped: the `input` of contract.json.
struct Rules {
    int width = 0;
    int height = 0;
    int resize = 0;       // of the short side, where `squash` is false
    bool squash = false;  // both sides resized, nothing cut off
    bool inside = false;  // the model resizes and crops by itself
    std::string interpolation;
};

// What a file's metadata say about which way is up.
struct Metadata {
    bool has_exif = false;
    std::string exif;  // TIFF bytes, perhaps behind "Exif\0\0"
    std::string xmp;
};

// Decode JPEG or PNG; transparency is laid on white, 16-bit grey scaled, the EXIF orientation applied. Throws
// std::runtime_error for anything else, and for files that are broken or larger than kMostPixels.
Image decode(const std::string& content);

Image decode_jpeg(const std::string& content, Metadata& metadata);
Image decode_png(const std::string& content, Metadata& metadata);

// 1 to 8 as EXIF numbers them; 1 where nothing is said.
int orientation_of(const Metadata& metadata);

// Resize with antialiasing and crop, with the same result as Pillow to the last bit; nothing where the model does it.
Image prepare(const Image& photo, const Rules& rules);
