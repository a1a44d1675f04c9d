// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
//
// What both example programs share: the contract, the command line, and what is printed. A runtime brings one function.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "image.hpp"

// The parts of contract.json that a program needs.
struct Contract {
    std::string folder;  // of the bundle, ending in a slash
    std::string model;   // relative to the folder
    std::string runtime, precision;
    std::string input_name, output_name;
    std::vector<std::int64_t> shape;  // of the input; kFree where it may be anything
    bool bytes = false;               // uint8 input, else float32 in [0, 1]
    Rules rules;
    std::vector<std::string> classes;
};

constexpr std::int64_t kFree = -1;

// An input tensor: one of the two vectors is filled, as Contract::bytes says.
struct Tensor {
    std::vector<std::int64_t> shape;
    std::vector<float> floats;
    std::vector<std::uint8_t> bytes;
};

// From an input tensor to the first image's logits.
using Answer = std::function<std::vector<float>(Tensor&)>;

// Loads the model once, to compute with so many threads. Throws std::exception if it cannot.
using Open = std::function<Answer(const Contract&, int threads)>;

// Parse the command line, classify each image, print; return the exit code: 0, 2 for a mistake, 4 for trouble with the runtime.
// A bundle that was made for, and measured with, another runtime than this one is refused: it may answer otherwise here.
int run(int argc, char** argv, const std::string& runtime, const Open& open);
