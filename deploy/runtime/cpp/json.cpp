// Copyright the edgekd authors
// SPDX-License-Identifier: Apache-2.0
#include "json.hpp"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>

namespace json {
namespace {

constexpr int kMostLevels = 64;

class Reader {
  public:
    explicit Reader(const std::string& content) : content_(content) {}

    Value document() {
        Value found = value(0);
        skip_blank();
        if (place_ != content_.size()) fail("something follows the end");
        return found;
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw std::runtime_error("not JSON: " + what + " at byte " + std::to_string(place_));
    }

    void skip_blank() {
        while (place_ < content_.size() && std::string(" \t\r\n").find(content_[place_]) != std::string::npos) ++place_;
    }

    char peek() const { return place_ < content_.size() ? content_[place_] : '\0'; }

    bool take(char wanted) {
        skip_blank();
        if (peek() != wanted || place_ == content_.size()) return false;
        ++place_;
        return true;
    }

    void need(char wanted) {
        if (!take(wanted)) fail(std::string("expected ") + wanted);
    }

    bool word(const std::string& wanted) {
        if (content_.compare(place_, wanted.size(), wanted) != 0) return false;
        place_ += wanted.size();
        return true;
    }

    Value value(int level) {
        if (level > kMostLevels) fail("too many levels");
        skip_blank();
        Value found;
        if (peek() == '{') {
            members(found, level);
        } else if (peek() == '[') {
            entries(found, level);
        } else if (peek() == '"') {
            found.kind = Value::Kind::text;
            found.text = text();
        } else if (word("true") || word("false")) {
            found.kind = Value::Kind::boolean;
            found.truth = content_[place_ - 2] == 'u';
        } else if (!word("null")) {
            found.kind = Value::Kind::number;
            found.number = number();
        }
        return found;
    }

    void members(Value& found, int level) {
        found.kind = Value::Kind::object;
        need('{');
        if (take('}')) return;
        do {
            skip_blank();
            const std::string key = text();
            need(':');
            found.object[key] = value(level + 1);
        } while (take(','));
        need('}');
    }

    void entries(Value& found, int level) {
        found.kind = Value::Kind::list;
        need('[');
        if (take(']')) return;
        do found.list.push_back(value(level + 1));
        while (take(','));
        need(']');
    }

    double number() {
        const char* start = content_.c_str() + place_;
        char* end = nullptr;
        const double found = std::strtod(start, &end);
        if (end == start || !std::isfinite(found)) fail("expected a value");
        place_ += static_cast<std::size_t>(end - start);
        return found;
    }

    std::string text() {
        need('"');
        std::string found;
        while (peek() != '"') {
            if (place_ >= content_.size() || static_cast<unsigned char>(peek()) < 0x20) fail("a text that does not end");
            const char next = content_[place_++];
            if (next != '\\') {
                found += next;
            } else {
                escaped(found);
            }
        }
        ++place_;
        return found;
    }

    void escaped(std::string& found) {
        static const std::map<char, char> plain = {{'"', '"'},  {'\\', '\\'}, {'/', '/'},  {'b', '\b'},
                                                   {'f', '\f'}, {'n', '\n'},  {'r', '\r'}, {'t', '\t'}};
        const char kind = peek();
        ++place_;
        if (const auto known = plain.find(kind); known != plain.end()) {
            found += known->second;
        } else if (kind == 'u') {
            unsigned long code = four_digits();
            if (code >= 0xD800 && code < 0xDC00 && word("\\u"))
                code = 0x10000 + ((code - 0xD800) << 10) + (four_digits() - 0xDC00);
            append_utf8(found, code);
        } else {
            fail("an unknown escape");
        }
    }

    unsigned long four_digits() {
        const std::string digits = content_.substr(place_, 4);
        if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) fail("a bad \\u");
        place_ += 4;
        return std::strtoul(digits.c_str(), nullptr, 16);
    }

    static void append_utf8(std::string& found, unsigned long code) {
        if (code < 0x80) {
            found += static_cast<char>(code);
            return;
        }
        const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        const unsigned long marks[] = {0, 0xC0, 0xE0, 0xF0};
        found += static_cast<char>(marks[more] | (code >> (6 * more)));
        for (int rest = more - 1; rest >= 0; --rest) found += static_cast<char>(0x80 | ((code >> (6 * rest)) & 0x3F));
    }

    const std::string& content_;
    std::size_t place_ = 0;
};

}  // namespace

const Value& Value::at(const std::string& key) const {
    const auto found = object.find(key);
    if (kind != Kind::object || found == object.end()) throw std::runtime_error("contract.json: `" + key + "` is missing");
    return found->second;
}

const std::string& Value::as_text() const {
    if (kind != Kind::text) throw std::runtime_error("contract.json: a text was expected");
    return text;
}

int Value::as_int() const {
    if (kind != Kind::number || number != std::floor(number) || std::abs(number) > std::numeric_limits<int>::max()) {
        throw std::runtime_error("contract.json: a whole number was expected");
    }
    return static_cast<int>(number);
}

const std::vector<Value>& Value::as_list() const {
    if (kind != Kind::list) throw std::runtime_error("contract.json: a list was expected");
    return list;
}

Value parse(const std::string& content) { return Reader(content).document(); }

}  // namespace json
