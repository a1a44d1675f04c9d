// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
//
// A reader for JSON (RFC 8259), small enough to be read in one sitting: contract.json is all it has to understand.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace json {

struct Value {
    enum class Kind { null, boolean, number, text, list, object };

    Kind kind = Kind::null;
    bool truth = false;
    double number = 0;
    std::string text;  // UTF-8
    std::vector<Value> list;
    std::map<std::string, Value> object;

    // Each of these throws std::runtime_error, naming the key, if the value is missing or of another kind.
    const Value& at(const std::string& key) const;
    const std::string& as_text() const;
    int as_int() const;
    const std::vector<Value>& as_list() const;
};

// Throws std::runtime_error with the position of the first mistake.
Value parse(const std::string& content);

}  // namespace json
