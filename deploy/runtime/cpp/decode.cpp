// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
//
// JPEG through libjpeg (of libjpeg-turbo: the decoder that Pillow uses), PNG through libpng. What would need more code than it
// is worth on a device, and could come out otherwise than in training, is refused.
#include <cstdio>  // libjpeg's headers use what they do not include: size_t, FILE

#include <jpeglib.h>

#include <jerror.h>
#include <png.h>

#include <algorithm>
#include <cctype>
#include <csetjmp>
#include <cstring>
#include <iterator>
#include <stdexcept>

#include "image.hpp"

namespace {

[[noreturn]] void refuse(const std::string& why) { throw std::runtime_error(why); }

void check_size(long long width, long long height) {
    if (width < 1 || height < 1) refuse("the image is empty");
    if (width * height > kMostPixels) refuse("the image is larger than 64 megapixels");
}

std::uint8_t over_255(int product) { return static_cast<std::uint8_t>((((product + 128) >> 8) + product + 128) >> 8); }

// ------------------------------------------------------------------------------------------------------------------- JPEG
struct JpegErrors {
    jpeg_error_mgr base;
    std::jmp_buf back;
    char message[JMSG_LENGTH_MAX];
    bool cut_off;
};

void leave(j_common_ptr decoder) {
    auto* errors = reinterpret_cast<JpegErrors*>(decoder->err);
    errors->base.format_message(decoder, errors->message);
    std::longjmp(errors->back, 1);
}

void remember(j_common_ptr decoder, int level) {
    auto* errors = reinterpret_cast<JpegErrors*>(decoder->err);
    if (level < 0 && errors->base.msg_code == JWRN_JPEG_EOF) errors->cut_off = true;
}

// Everything that a jump out of libjpeg must not lose; the functions that it may leave own nothing themselves.
struct JpegFile {
    jpeg_decompress_struct decoder{};
    JpegErrors errors{};
    std::vector<std::uint8_t> samples;

    JpegFile() {
        decoder.err = jpeg_std_error(&errors.base);
        errors.base.error_exit = leave;
        errors.base.emit_message = remember;
        jpeg_create_decompress(&decoder);
    }
    ~JpegFile() { jpeg_destroy_decompress(&decoder); }
    JpegFile(const JpegFile&) = delete;
    JpegFile& operator=(const JpegFile&) = delete;
};

bool read_jpeg_header(JpegFile& file, const std::string& content) {
    if (setjmp(file.errors.back)) return false;
    jpeg_mem_src(&file.decoder, reinterpret_cast<const unsigned char*>(content.data()), content.size());
    jpeg_save_markers(&file.decoder, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&file.decoder, TRUE);
    return true;
}

bool read_jpeg_samples(JpegFile& file) {
    if (setjmp(file.errors.back)) return false;
    jpeg_start_decompress(&file.decoder);
    const std::size_t row_bytes =
        static_cast<std::size_t>(file.decoder.output_width) * static_cast<std::size_t>(file.decoder.output_components);
    while (file.decoder.output_scanline < file.decoder.output_height) {
        JSAMPROW row = file.samples.data() + row_bytes * file.decoder.output_scanline;
        jpeg_read_scanlines(&file.decoder, &row, 1);
    }
    jpeg_finish_decompress(&file.decoder);
    return true;
}

void collect_metadata(const JpegFile& file, Metadata& metadata) {
    const std::string exif_mark("Exif\0\0", 6), xmp_mark("http://ns.adobe.com/xap/1.0/\0", 29);
    for (auto* marker = file.decoder.marker_list; marker != nullptr; marker = marker->next) {
        const std::string data(reinterpret_cast<const char*>(marker->data), marker->data_length);
        if (data.compare(0, exif_mark.size(), exif_mark) == 0) {
            metadata.exif += metadata.has_exif ? data.substr(exif_mark.size()) : data;
            metadata.has_exif = true;
        } else if (data.compare(0, xmp_mark.size(), xmp_mark) == 0) {
            metadata.xmp = data.substr(xmp_mark.size());
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------- PNG
struct PngSource {
    const std::string* content;
    std::size_t place;
};

void read_png_bytes(png_structp png, png_bytep out, png_size_t count) {
    auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
    if (count > source->content->size() - source->place) png_error(png, "truncated");
    std::memcpy(out, source->content->data() + source->place, count);
    source->place += count;
}

void leave_png(png_structp png, png_const_charp message) {
    auto* kept = static_cast<std::string*>(png_get_error_ptr(png));
    kept->assign(message);
    png_longjmp(png, 1);
}

void ignore_png(png_structp, png_const_charp) {}

struct PngFile {
    std::string message;
    PngSource source;
    png_structp png;
    png_infop info;
    std::vector<std::uint8_t> samples;
    std::vector<png_bytep> rows;

    explicit PngFile(const std::string& content) : source{&content, 0} {
        png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &message, leave_png, ignore_png);
        info = png == nullptr ? nullptr : png_create_info_struct(png);
        if (info == nullptr) refuse("libpng cannot be started");
        png_set_read_fn(png, &source, read_png_bytes);
    }
    ~PngFile() { png_destroy_read_struct(&png, &info, nullptr); }
    PngFile(const PngFile&) = delete;
    PngFile& operator=(const PngFile&) = delete;
};

bool read_png_header(PngFile& file) {
    if (setjmp(png_jmpbuf(file.png))) return false;
    png_read_info(file.png, file.info);
    return true;
}

// 16-bit grey stays as it is (two bytes a pixel); everything else becomes 8-bit RGBA.
bool start_png(PngFile& file, bool deep_grey) {
    if (setjmp(png_jmpbuf(file.png))) return false;
    if (!deep_grey) {
        png_set_expand(file.png);
        png_set_strip_16(file.png);
        png_set_gray_to_rgb(file.png);
        png_set_add_alpha(file.png, 0xFF, PNG_FILLER_AFTER);
    }
    png_set_interlace_handling(file.png);
    png_read_update_info(file.png, file.info);
    return true;
}

bool read_png_samples(PngFile& file) {
    if (setjmp(png_jmpbuf(file.png))) return false;
    png_read_image(file.png, file.rows.data());
    png_read_end(file.png, file.info);
    return true;
}

std::string bytes_of_hex(const std::string& text) {
    std::string lines = text;
    for (int line = 0; line < 3; ++line) {
        const auto end = lines.find('\n');
        if (end == std::string::npos) return "";
        lines.erase(0, end + 1);
    }
    std::string digits, bytes;
    std::copy_if(lines.begin(), lines.end(), std::back_inserter(digits),
                 [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; });
    for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
        bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
    return bytes;
}

void collect_metadata(const PngFile& file, Metadata& metadata) {
    png_textp texts = nullptr;
    int count = 0;
    png_get_text(file.png, file.info, &texts, &count);
    for (int index = 0; index < count; ++index) {
        const std::string key(texts[index].key);
        const std::size_t size = std::max(texts[index].text_length, texts[index].itxt_length);
        if (key == "XML:com.adobe.xmp") metadata.xmp.assign(texts[index].text, size);
        if (key == "Raw profile type exif") {
            metadata.exif = bytes_of_hex(std::string(texts[index].text, size));
            metadata.has_exif = true;
        }
    }
    png_bytep exif = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(file.png, file.info, &size, &exif) != 0) {
        metadata.exif.assign(reinterpret_cast<const char*>(exif), size);
        metadata.has_exif = true;
    }
}

// A colour laid on white, rounded as Pillow rounds it.
std::uint8_t on_white(int value, int alpha) {
    const int sum = (value * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
    return static_cast<std::uint8_t>((((sum >> 8) + sum) >> 8) >> 7);
}

void refuse_rare_png(const PngFile& file, int depth, int kind) {
    const bool one_transparent_colour = png_get_valid(file.png, file.info, PNG_INFO_tRNS) != 0;
    if (one_transparent_colour &&
        ((kind == PNG_COLOR_TYPE_GRAY && (depth == 2 || depth == 4)) || (kind == PNG_COLOR_TYPE_RGB && depth == 16))) {
        refuse("a PNG of this depth with a transparent colour is not read here; save it as 8-bit RGBA");
    }
}

// ------------------------------------------------------------------------------------------------------------ orientation
class Tiff {
  public:
    explicit Tiff(const std::string& content) : content_(content), big_(content.compare(0, 2, "MM") == 0) {}

    bool holds(std::size_t place, std::size_t count) const {
        return place <= content_.size() && count <= content_.size() - place;
    }

    std::uint32_t number(std::size_t place, int count) const {
        std::uint32_t found = 0;
        for (int i = 0; i < count; ++i)
            found =
                found << 8 | static_cast<unsigned char>(content_[place + static_cast<std::size_t>(big_ ? i : count - 1 - i)]);
        return found;
    }

  private:
    const std::string& content_;
    bool big_;
};

constexpr int kAbsent = 0;

// The orientation in a block of EXIF, kAbsent if it holds none, 1 if the block or the entry cannot be read.
int orientation_in(std::string exif) {
    const std::string mark("Exif\0\0", 6);
    while (exif.compare(0, mark.size(), mark) == 0) exif.erase(0, mark.size());
    if (exif.empty()) return kAbsent;
    const std::string start = exif.substr(0, 4);
    if (start == std::string("II+\0", 4) || start == std::string("MM\0+", 4))
        refuse("EXIF written as BigTIFF is not read here");
    if (start != std::string("II*\0", 4) && start != std::string("MM\0*", 4)) return 1;
    const Tiff tiff(exif);
    if (!tiff.holds(4, 4)) return 1;
    std::size_t place = tiff.number(4, 4);
    if (!tiff.holds(place, 2)) return kAbsent;
    int found = kAbsent;
    const std::uint32_t count = tiff.number(place, 2);
    place += 2;
    for (std::uint32_t entry = 0; entry < count && tiff.holds(place, 12); ++entry, place += 12) {
        if (tiff.number(place, 2) != 0x0112 || tiff.number(place + 4, 4) == 0) continue;
        const std::uint32_t type = tiff.number(place + 2, 2), values = tiff.number(place + 4, 4);
        const int width = type == 3 || type == 8 ? 2 : type == 4 || type == 9 || type == 13 ? 4 : 0;
        if (width == 0) {
            found = 1;  // text, fractions and the like say nothing about which way is up
            continue;
        }
        const std::size_t size = static_cast<std::size_t>(values) * static_cast<std::size_t>(width);
        const std::size_t where = size <= 4 ? place + 8 : tiff.number(place + 8, 4);
        if (!tiff.holds(where, size)) continue;
        const std::uint32_t value = tiff.number(where, width);
        found = value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
    }
    return found;
}

Image upright(const Image& image, int orientation) {
    if (orientation == 1) return image;
    const int right = image.width - 1, bottom = image.height - 1;
    const bool lying = orientation >= 5;
    Image out = lying ? Image(image.height, image.width) : Image(image.width, image.height);
    for (int y = 0; y < out.height; ++y) {
        for (int x = 0; x < out.width; ++x) {
            const int along = lying ? y : x, across = lying ? x : y;
            const bool mirrored = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
            const bool flipped = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
            std::copy_n(image.at(mirrored ? right - along : along, flipped ? bottom - across : across), 3, out.at(x, y));
        }
    }
    return out;
}

}  // namespace

Image decode_jpeg(const std::string& content, Metadata& metadata) {
    JpegFile file;
    if (!read_jpeg_header(file, content)) refuse(std::string("broken JPEG: ") + file.errors.message);
    auto& decoder = file.decoder;
    check_size(decoder.image_width, decoder.image_height);
    collect_metadata(file, metadata);  // libjpeg forgets the markers when it has read the pixels
    if (decoder.num_components != 1 && decoder.num_components != 3 && decoder.num_components != 4)
        refuse("a JPEG of an unknown kind");
    decoder.out_color_space = decoder.num_components == 1 ? JCS_GRAYSCALE : decoder.num_components == 3 ? JCS_RGB : JCS_CMYK;
    const int width = static_cast<int>(decoder.image_width), height = static_cast<int>(decoder.image_height);
    const std::size_t pixels = static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
    const std::size_t channels = static_cast<std::size_t>(decoder.num_components);
    file.samples.resize(pixels * channels);
    if (!read_jpeg_samples(file)) refuse(std::string("broken JPEG: ") + file.errors.message);
    if (file.errors.cut_off) refuse("truncated JPEG");
    Image image(width, height);
    if (channels == 3) {
        image.rgb = std::move(file.samples);
        return image;
    }
    for (std::size_t i = 0; i < pixels; ++i) {
        const std::uint8_t* in = file.samples.data() + i * channels;
        for (std::size_t c = 0; c < 3; ++c) {
            // CMYK as Adobe writes it, upside down: what is stored is how much light is left.
            image.rgb[3 * i + c] = channels == 1 ? in[0] : static_cast<std::uint8_t>(in[3] - over_255((255 - in[c]) * in[3]));
        }
    }
    return image;
}

Image decode_png(const std::string& content, Metadata& metadata) {
    PngFile file(content);
    if (!read_png_header(file)) refuse("broken PNG: " + file.message);
    const int depth = png_get_bit_depth(file.png, file.info), kind = png_get_color_type(file.png, file.info);
    const int width = static_cast<int>(png_get_image_width(file.png, file.info)),
              height = static_cast<int>(png_get_image_height(file.png, file.info));
    check_size(width, height);
    refuse_rare_png(file, depth, kind);
    const bool deep_grey = kind == PNG_COLOR_TYPE_GRAY && depth == 16;
    const std::size_t row_bytes = static_cast<std::size_t>(width) * (deep_grey ? 2 : 4);
    if (!start_png(file, deep_grey) || png_get_rowbytes(file.png, file.info) != row_bytes)
        refuse("broken PNG: " + file.message);
    file.samples.resize(row_bytes * static_cast<std::size_t>(height));
    for (int y = 0; y < height; ++y) file.rows.push_back(file.samples.data() + row_bytes * static_cast<std::size_t>(y));
    if (!read_png_samples(file)) refuse("broken PNG: " + file.message);
    collect_metadata(file, metadata);
    Image image(width, height);
    for (std::size_t i = 0; i < image.rgb.size() / 3; ++i) {
        const std::uint8_t* in = file.samples.data() + i * (deep_grey ? 2 : 4);
        for (std::size_t c = 0; c < 3; ++c) {
            image.rgb[3 * i + c] =
                deep_grey ? static_cast<std::uint8_t>(((in[0] << 8 | in[1]) + 128) / 257) : on_white(in[c], in[3]);
        }
    }
    return image;
}

int orientation_of(const Metadata& metadata) {
    const int found = metadata.has_exif ? orientation_in(metadata.exif) : kAbsent;
    if (found != kAbsent) return found;
    const std::string mark = "tiff:Orientation";
    for (auto place = metadata.xmp.find(mark); place != std::string::npos; place = metadata.xmp.find(mark, place + 1)) {
        const std::string next = metadata.xmp.substr(place + mark.size(), 3);
        const std::size_t skip = next.compare(0, 2, "=\"") == 0 ? 2 : next.compare(0, 1, ">") == 0 ? 1 : 0;
        if (skip != 0 && skip < next.size() && next[skip] >= '0' && next[skip] <= '9') {
            const int value = next[skip] - '0';
            return value >= 1 && value <= 8 ? value : 1;
        }
    }
    return 1;
}

Image decode(const std::string& content) {
    Metadata metadata;
    Image image;
    if (content.compare(0, 3, "\xFF\xD8\xFF") == 0) {
        image = decode_jpeg(content, metadata);
    } else if (content.compare(0, 4, "\x89PNG") == 0) {
        image = decode_png(content, metadata);
    } else {
        refuse("only JPEG and PNG are read here; the Python program beside this one reads more");
    }
    return upright(image, orientation_of(metadata));
}
