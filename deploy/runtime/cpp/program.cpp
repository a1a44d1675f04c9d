// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
#include "program.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "json.hpp"

namespace {

constexpr const char* kUsage =
    "usage: classify --bundle DIR [--top N] [--threads N] [--pixels FILE] IMAGE...\n"
    "  --bundle DIR    the folder that holds contract.json\n"
    "  --top N         how many classes to print (5)\n"
    "  --threads N     threads of the runtime (all cores)\n"
    "  --pixels FILE   write the first image's prepared pixels (uint8, RGB, HWC) and stop\n";

struct Options {
    std::string bundle, pixels;
    int top = 5;
    int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    std::vector<std::string> images;
};

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file) throw std::runtime_error(path + ": cannot be read");
    return content;
}

int positive(const std::string& text) {
    if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos || std::stoi(text) < 1) {
        throw std::runtime_error("expected a number from 1 on, found " + text);
    }
    return std::stoi(text);
}

Options parsed(int argc, char** argv) {
    Options options;
    const std::vector<std::string> words(argv + 1, argv + argc);
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (words[i].compare(0, 2, "--") != 0) {
            options.images.push_back(words[i]);
            continue;
        }
        if (i + 1 == words.size()) throw std::runtime_error(words[i] + " needs a value\n" + kUsage);
        const std::string& option = words[i];
        const std::string& value = words[++i];
        if (option == "--bundle") options.bundle = value;
        else if (option == "--pixels") options.pixels = value;
        else if (option == "--top") options.top = positive(value);
        else if (option == "--threads") options.threads = positive(value);
        else throw std::runtime_error("there is no option " + option + "\n" + kUsage);
    }
    if (options.bundle.empty() || options.images.empty())
        throw std::runtime_error(std::string("say --bundle and an image\n") + kUsage);
    return options;
}

// -------------------------------------------------------------------------------------------------------------- contract
Rules rules_of(const json::Value& input) {
    Rules rules;
    const auto& size = input.at("size_px").as_list();
    if (size.size() != 2) throw std::runtime_error("contract.json: size_px is not height and width");
    rules.height = size[0].as_int();
    rules.width = size[1].as_int();
    rules.resize = input.at("resize_px").as_int();
    rules.interpolation = input.at("interpolation").as_text();
    const std::string& crop = input.at("crop").as_text();
    if (crop != "center" && crop != "squash")
        throw std::runtime_error("contract.json: crop " + crop + " is not one that this program knows");
    rules.squash = crop == "squash";
    const auto inside = input.object.find("resize_inside");
    rules.inside = inside != input.object.end() && inside->second.truth;
    return rules;
}

void read_input(const json::Value& spec, Contract& contract) {
    contract.input_name = spec.at("name").as_text();
    const std::string& type = spec.at("dtype").as_text();
    if (type != "float32" && type != "uint8")
        throw std::runtime_error("contract.json: an input of type " + type + " is not one that this program knows");
    contract.bytes = type == "uint8";
    for (const auto& side : spec.at("shape").as_list()) {
        contract.shape.push_back(side.kind == json::Value::Kind::text ? kFree : side.as_int());
    }
}

Contract read_contract(const std::string& folder) {
    const json::Value document = json::parse(read_file(folder + "/contract.json"));
    if (document.at("record").as_text() != "bundle" || document.at("schema").as_int() != 1) {
        throw std::runtime_error("contract.json is not one that this program knows");
    }
    Contract contract;
    contract.folder = folder + "/";
    const auto &files = document.at("files").as_list(), &inputs = document.at("inputs").as_list(),
               &outputs = document.at("outputs").as_list();
    if (files.empty() || inputs.empty() || outputs.empty())
        throw std::runtime_error("contract.json: names no model, input or output");
    contract.model = files[0].at("path").as_text();
    contract.runtime = document.at("runtime").as_text();
    contract.precision = document.at("precision").as_text();
    contract.rules = rules_of(document.at("input"));
    read_input(inputs[0], contract);
    contract.output_name = outputs[0].at("name").as_text();
    for (const auto& name : document.at("classes").as_list()) contract.classes.push_back(name.as_text());
    return contract;
}

// ---------------------------------------------------------------------------------------------------------------- answers
bool fits(const std::vector<std::int64_t>& shape, const std::vector<std::int64_t>& sides) {
    if (shape.size() != 4) return false;
    return std::equal(sides.begin(), sides.end(), shape.begin() + 1,
                      [](std::int64_t found, std::int64_t wanted) { return wanted == kFree || wanted == found; });
}

// The pixels as the model's input: its type, its layout and its batch, filled with the same image.
Tensor tensor_of(const Image& pixels, const Contract& contract) {
    std::vector<std::int64_t> sides{pixels.height, pixels.width, 3};
    const bool channels_last = fits(contract.shape, sides);
    if (!channels_last) sides = {3, pixels.height, pixels.width};
    if (!fits(contract.shape, sides))
        throw std::runtime_error("contract.json: an input of this shape is not one that this program knows");
    std::vector<std::uint8_t> one(pixels.rgb.size());
    const std::size_t area = pixels.rgb.size() / 3;
    for (std::size_t i = 0; i < area; ++i) {
        for (std::size_t c = 0; c < 3; ++c) one[channels_last ? 3 * i + c : c * area + i] = pixels.rgb[3 * i + c];
    }
    Tensor tensor;
    tensor.shape = {contract.shape[0] == kFree ? 1 : contract.shape[0], sides[0], sides[1], sides[2]};
    for (std::int64_t image = 0; image < tensor.shape[0]; ++image) {
        if (contract.bytes) {
            tensor.bytes.insert(tensor.bytes.end(), one.begin(), one.end());
        } else {
            std::transform(one.begin(), one.end(), std::back_inserter(tensor.floats),
                           [](std::uint8_t v) { return static_cast<float>(v) / 255.0F; });
        }
    }
    return tensor;
}

// Bytes that could steer a terminal become question marks.
std::string printable(std::string text) {
    std::replace_if(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }, '?');
    return text;
}

void print_best(const std::vector<float>& logits, const Contract& contract, int top) {
    if (logits.size() != contract.classes.size())
        throw std::runtime_error("the model answers with another number of classes than contract.json names");
    const double most = *std::max_element(logits.begin(), logits.end());
    std::vector<double> probability;
    for (const float logit : logits) probability.push_back(std::exp(static_cast<double>(logit) - most));
    const double sum = std::accumulate(probability.begin(), probability.end(), 0.0);
    std::vector<std::size_t> order(logits.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return probability[a] > probability[b]; });
    order.resize(std::min(order.size(), static_cast<std::size_t>(top)));
    for (const std::size_t index : order)
        std::printf("  %.6f  %s\n", probability[index] / sum, printable(contract.classes[index]).c_str());
}

Image pixels_of(const std::string& path, const Contract& contract) {
    try {
        return prepare(decode(read_file(path)), contract.rules);
    } catch (const std::runtime_error& error) {
        throw std::runtime_error(path + ": " + error.what());
    }
}

}  // namespace

int run(int argc, char** argv, const std::string& runtime, const Open& open) {
    bool with_runtime = false;
    try {
        const Options options = parsed(argc, argv);
        const Contract contract = read_contract(options.bundle);
        if (!options.pixels.empty()) {
            const Image pixels = pixels_of(options.images.front(), contract);
            std::ofstream file(options.pixels, std::ios::binary);
            file.write(reinterpret_cast<const char*>(pixels.rgb.data()), static_cast<std::streamsize>(pixels.rgb.size()));
            return file ? 0 : 2;
        }
        if (contract.runtime != runtime)
            throw std::runtime_error("this bundle is for " + contract.runtime + ": use classify_" + contract.runtime);
        with_runtime = true;
        const Answer answer = open(contract, options.threads);
        for (const std::string& path : options.images) {
            with_runtime = false;
            Tensor tensor = tensor_of(pixels_of(path, contract), contract);
            with_runtime = true;
            const std::vector<float> logits = answer(tensor);
            std::printf("%s:\n", printable(path).c_str());
            print_best(logits, contract, options.top);
        }
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return with_runtime ? 4 : 2;
    }
}
