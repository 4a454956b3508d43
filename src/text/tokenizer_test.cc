#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace videre {
namespace {

const std::string kTests = VIDERE_TEST_DATA;
const std::string kTinyB = kTests + "/tiny-b";

json::value read_json(const std::string& path) {
  auto text = read_text_file(path, 64 << 20);
  EXPECT_TRUE(text.ok()) << path;
  auto value = parse_json(*text, path);
  EXPECT_TRUE(value.ok()) << path;
  return *value;
}

const json::value& tiny_b_file() {
  static const json::value file = read_json(kTinyB + "/checkpoint/tokenizer.json");
  return file;
}

std::vector<int32_t> ids_of(const json::value& list) {
  std::vector<int32_t> ids;
  for (const auto& id : list.as_array()) ids.push_back(static_cast<int32_t>(id.as_int64()));
  return ids;
}

std::unique_ptr<Tokenizer> parse_or_fail(const json::value& file, std::string_view config = "") {
  auto tokenizer = Tokenizer::parse(to_json(file), config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  return tokenizer.ok() ? std::move(*tokenizer) : nullptr;
}

TEST(Tokenizer, GivesTheReferenceIds) {
  auto tokenizer = Tokenizer::load(kTinyB + "/checkpoint");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const json::value golden = read_json(kTinyB + "/golden.json");
  for (const auto& row : golden.at("tokenizer").as_array()) {
    const std::string text(row.at("text").as_string());
    EXPECT_EQ((*tokenizer)->encode(text, false), ids_of(row.at("ids"))) << text;
    EXPECT_EQ((*tokenizer)->decode(ids_of(row.at("ids")), false), row.at("decoded").as_string());
  }
  for (const auto& row : golden.at("chat").as_array()) {
    EXPECT_EQ((*tokenizer)->encode(std::string(row.at("rendered").as_string()), false),
              ids_of(row.at("ids")));
  }
}

// tiny-b's file with a variant's parts replaced, as tests/tokenizer/make.py builds it.
json::value patched_file(const json::object& patch) {
  json::value out = tiny_b_file();
  json::object& file = out.as_object();
  json::object& model = file["model"].as_object();
  for (const auto& [key, value] : patch) {
    if (key == "model") {
      for (const auto& [name, field] : value.as_object()) model[name] = field;
    } else if (key == "more_added_tokens") {
      json::array& added = file["added_tokens"].as_array();
      int64_t next = 0;
      for (const auto& token : added) next = std::max(next, token.at("id").as_int64() + 1);
      for (json::value token : value.as_array()) {
        token.as_object()["id"] = next++;
        added.push_back(std::move(token));
      }
    } else if (key == "drop_letters") {
      json::object& vocab = model["vocab"].as_object();
      std::vector<std::pair<int64_t, std::string>> specials;
      json::object kept;
      for (const auto& [token, id] : vocab) {
        const int64_t number = id.as_int64();
        const std::string text(token);
        const bool one_character = count_code_points(text) == 1;
        if (text.starts_with("<SPECIAL_") && std::stoi(text.substr(9)) >= 20) {
          specials.emplace_back(number, text);
        } else {
          kept[one_character && number % 3 == 0 ? "<dropped " + std::to_string(number) + ">"
                                                : text] = number;
        }
      }
      std::sort(specials.begin(), specials.end());
      std::vector<int64_t> renamed;
      for (size_t i = 0; i < specials.size(); ++i) {
        const bool byte_token = 2 * i < 256;
        kept[byte_token ? fmt::format("<0x{:02X}>", 2 * i) : specials[i].second] =
            specials[i].first;
        if (byte_token) renamed.push_back(specials[i].first);
      }
      vocab = kept;
      json::array added, merges;
      for (const auto& token : file["added_tokens"].as_array()) {
        if (std::find(renamed.begin(), renamed.end(), token.at("id").as_int64()) == renamed.end())
          added.push_back(token);
      }
      file["added_tokens"] = added;
      for (const auto& merge : model["merges"].as_array()) {
        const std::string left(merge.at(0).as_string()), right(merge.at(1).as_string());
        if (kept.contains(left) && kept.contains(right) && kept.contains(left + right))
          merges.push_back(merge);
      }
      model["merges"] = merges;
    } else {
      file[key] = value;
    }
  }
  return out;
}

TEST(Tokenizer, GivesTheReferenceIdsInEveryVariant) {
  const json::value vectors = read_json(kTests + "/tokenizer/vectors.json");
  for (const auto& variant : vectors.at("variants").as_array()) {
    SCOPED_TRACE(std::string(variant.at("name").as_string()));
    const auto tokenizer = parse_or_fail(patched_file(variant.at("patch").as_object()));
    ASSERT_TRUE(tokenizer);
    for (const auto& row : variant.at("rows").as_array()) {
      const std::string text(row.at(0).as_string());
      const auto ids = tokenizer->encode(text, false);
      EXPECT_EQ(ids, ids_of(row.at(1))) << text;
      EXPECT_EQ(tokenizer->decode(ids, true), row.at(2).as_string()) << text;
    }
  }
}

TEST(Regex, CutsTextsAsOnigurumaDoes) {
  const json::value vectors = read_json(kTests + "/tokenizer/vectors.json");
  for (const auto& split : vectors.at("splits").as_array()) {
    const json::value step = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern", {{"Regex", split.at("pattern")}}},
           {"behavior", "Isolated"}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    auto pre_tokenizer = PreTokenizer::read(step);
    ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.error().message;
    const json::array& texts = vectors.at("texts").as_array();
    for (size_t i = 0; i < texts.size(); ++i) {
      std::vector<std::string> pieces, expected;
      for (const auto& piece : split.at("pieces").at(i).as_array())
        expected.emplace_back(piece.as_string());
      RegexScratch scratch;
      const std::string text(texts[i].as_string());
      EXPECT_TRUE(
          pre_tokenizer->run(text, scratch, [&](auto piece) { pieces.emplace_back(piece); }));
      EXPECT_EQ(pieces, expected) << split.at("pattern").as_string() << "\n" << text;
    }
  }
}

TEST(Regex, RefusesWhatOnigurumaReadsDifferently) {
  for (const char* pattern : {"[a&&b]",
                              "[[a]b]",
                              "[[:alpha:]]",
                              "\\h",
                              "\\R",
                              "\\X",
                              "\\b",
                              "\\k<a>",
                              "(?<n>a)",
                              "a(?i)b",
                              "(?m:a)",
                              "(?x)a",
                              "a{2}+",
                              "a{2}?",
                              "\\Z",
                              "\\G",
                              "\\1",
                              "[\\W]",
                              "(?i:ss)",
                              "(?i:st)",
                              "(?i:é)",
                              "(?i:[é])",
                              "(?i:\\p{Lu})",
                              "\\p{L",
                              "\\pL",
                              "(*FAIL)",
                              "\\xff",
                              "\\u12",
                              "[",
                              "(",
                              ")",
                              "*",
                              "\\",
                              "[]",
                              "[z-a]",
                              "\\p{NoSuchScript}",
                              "\\N",
                              "\\K",
                              "\\Qa\\E"}) {
    EXPECT_FALSE(Regex::oniguruma(pattern, "pattern").ok()) << pattern;
  }
  EXPECT_FALSE(Regex::oniguruma(std::string(20000, 'a'), "pattern").ok());
  EXPECT_FALSE(Regex::oniguruma(std::string(5000, '(') + std::string(5000, ')'), "pattern").ok());
  EXPECT_FALSE(Regex::oniguruma("((((a{1000}){1000}){1000}){1000})", "pattern").ok());
  EXPECT_FALSE(Regex::oniguruma("\xff", "pattern").ok());
}

// The definition of BPE, one merge at a time: the lowest rank, the leftmost of it.
class PlainBpe {
 public:
  explicit PlainBpe(const json::value& model) : model_(model) {
    int rank = 0;
    for (const auto& merge : model.at("merges").as_array()) {
      ranks_[{std::string(merge.at(0).as_string()), std::string(merge.at(1).as_string())}] = rank++;
    }
  }
  std::vector<int32_t> encode(std::vector<std::string> symbols) const {
    while (true) {
      int best = -1, best_rank = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks_.find({symbols[i], symbols[i + 1]});
        if (found != ranks_.end() && (best < 0 || found->second < best_rank)) {
          best = static_cast<int>(i);
          best_rank = found->second;
        }
      }
      if (best < 0) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + best + 1);
    }
    std::vector<int32_t> ids;
    for (const auto& symbol : symbols)
      ids.push_back(static_cast<int32_t>(model_.at("vocab").at(symbol).as_int64()));
    return ids;
  }

 private:
  const json::value& model_;
  std::map<std::pair<std::string, std::string>, int> ranks_;
};

TEST(Bpe, MergesAsDefinedInShortAndLongPieces) {
  json::value model = tiny_b_file().at("model");
  model.as_object()["ignore_merges"] = false;
  auto bpe = Bpe::read(model);
  ASSERT_TRUE(bpe.ok()) << bpe.error().message;
  const PlainBpe plain(model);
  std::map<char, std::string> letters;  // the alphabet's spelling of bytes, by way of the tokens
  for (const auto& [token, id] : model.at("vocab").as_object()) {
    const auto bytes = byte_level_decode(std::string(token));
    if (bytes && bytes->size() == 1) letters[(*bytes)[0]] = std::string(token);
  }
  ASSERT_EQ(letters.size(), 256u);
  std::mt19937 random(4);
  Bpe::Scratch scratch;
  const std::string common = "  eeettaoinshr\n";
  for (int round = 0; round < 3000; ++round) {
    const size_t length = round % 10 == 0 ? 30 + random() % 300 : 1 + random() % 24;
    std::string piece;
    std::vector<std::string> symbols;
    while (piece.size() < length) {
      piece += random() % 8 == 0 ? static_cast<char>(random()) : common[random() % common.size()];
      symbols.push_back(letters.at(piece.back()));
    }
    std::vector<int32_t> ids;
    bpe->encode(piece, scratch, ids);
    ASSERT_EQ(ids, plain.encode(symbols)) << round;
    ids.clear();
    bpe->encode(piece, scratch, ids);  // from the cache
    ASSERT_EQ(ids, plain.encode(symbols)) << round;
  }
}

std::string random_text(std::mt19937& random, size_t length) {
  std::string text;
  for (size_t i = 0; i < length; ++i) {
    static constexpr char32_t kLimits[] = {0x80, 0x80, 0x800, 0x3000, 0x10000, 0x110000};
    char32_t c = random() % kLimits[random() % std::size(kLimits)];
    if (c >= 0xD800 && c < 0xE000) c = ' ';
    append_utf8(text, c);
  }
  return text;
}

TEST(Tokenizer, DecodingUndoesEncoding) {
  auto tokenizer = Tokenizer::load(kTinyB + "/checkpoint");
  ASSERT_TRUE(tokenizer.ok());
  std::mt19937 random(5);
  for (int round = 0; round < 5000; ++round) {
    const std::string text = random_text(random, random() % 60);
    const auto ids = (*tokenizer)->encode(text, false);
    ASSERT_EQ((*tokenizer)->decode(ids, false), text);
    std::string bytes;
    for (const int32_t id : ids) bytes += (*tokenizer)->token_bytes(id);
    ASSERT_EQ(bytes, text);
  }
}

TEST(Tokenizer, BrokenUtf8CountsAsReplacementCharacters) {
  auto tokenizer = Tokenizer::load(kTinyB + "/checkpoint");
  ASSERT_TRUE(tokenizer.ok());
  std::mt19937 random(6);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes;
    for (size_t i = random() % 40; i > 0; --i) bytes += static_cast<char>(random());
    ASSERT_EQ((*tokenizer)->encode(bytes, false), (*tokenizer)->encode(repair_utf8(bytes), false));
  }
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  auto loaded = Tokenizer::load(kTinyB + "/checkpoint");
  ASSERT_TRUE(loaded.ok());
  const Tokenizer& tokenizer = **loaded;
  EXPECT_EQ(tokenizer.bos_token(), "<s>");
  EXPECT_EQ(tokenizer.eos_token(), "<SPECIAL_12>");
  EXPECT_EQ(tokenizer.eos_id(), 12);
  EXPECT_EQ(tokenizer.vocab_size(), 1510);
  EXPECT_EQ(tokenizer.token_id("<image>"), 1500);
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(12));
  EXPECT_FALSE(tokenizer.is_special(1400));
  EXPECT_FALSE(tokenizer.is_special(-1));
  EXPECT_EQ(tokenizer.token_bytes(1500), "<image>");
  EXPECT_EQ(tokenizer.token_bytes(1510), "");
  EXPECT_EQ(tokenizer.token_bytes(-5), "");
  EXPECT_EQ(tokenizer.encode("", true), std::vector<int32_t>{1});
  EXPECT_EQ(tokenizer.encode("", false), std::vector<int32_t>{});
  const std::vector<int32_t> ids = {11, 139, 12};
  EXPECT_EQ(tokenizer.decode(ids, true), tokenizer.token_bytes(139));
  EXPECT_EQ(tokenizer.decode(ids, false),
            "<SPECIAL_11>" + std::string(tokenizer.token_bytes(139)) + "<SPECIAL_12>");
}

// A file of our own with unusual ids: what the code knows of ids it knows from the file.
json::value small_file() {
  return {
      {"added_tokens",
       {{{"id", 40}, {"content", "<bos>"}, {"special", true}, {"normalized", false}},
        {{"id", 7}, {"content", "<image>"}, {"special", true}, {"normalized", false}},
        {{"id", 3}, {"content", "<plain>"}, {"special", false}, {"normalized", false}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<bos>"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
          {{"SpecialToken", {{"id", "<plain>"}, {"type_id", 0}}}}}},
        {"special_tokens",
         {{"<bos>", {{"id", "<bos>"}, {"ids", {40}}}},
          {"<plain>", {{"id", "<plain>"}, {"ids", {3}}}}}}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model",
       {{"type", "BPE"},
        {"vocab", {{"a", 5}, {"b", 2}, {"ab", 9}, {"<eos>", 30}, {"<pad>", 31}}},
        {"merges", {"a b"}}}}};
}

TEST(Tokenizer, TakesEveryIdFromTheFiles) {
  const auto tokenizer = parse_or_fail(
      small_file(),
      R"({"bos_token": {"content": "<bos>"}, "eos_token": "<eos>", "pad_token": "<pad>",
          "added_tokens_decoder": {"12": {"content": "<more>", "special": true}}})");
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->encode("aab<image><more>b<eos>", true),
            (std::vector<int32_t>{40, 5, 9, 7, 12, 2, 30, 3}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("ab<eos>b<plain>", true), true),
            "abb<plain><plain>");
  EXPECT_EQ(tokenizer->bos_id(), 40);
  EXPECT_EQ(tokenizer->eos_id(), 30);
  EXPECT_TRUE(tokenizer->is_special(30));  // named by the config only
  EXPECT_EQ(tokenizer->vocab_size(), 41);
  ASSERT_EQ(tokenizer->named_tokens().size(), 3u);
  EXPECT_EQ(tokenizer->named_tokens()[2].first, "pad_token");
  EXPECT_EQ(tokenizer->encode("xyz", false), std::vector<int32_t>{});  // letters it does not have
}

TEST(Tokenizer, ReadsNamesFromTheSpecialTokensMap) {
  auto tokenizer = Tokenizer::parse(to_json(small_file()), "{}", R"({"eos_token": "<eos>"})");
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->eos_id(), 30);
  EXPECT_EQ((*tokenizer)->bos_token(), "");
  EXPECT_EQ((*tokenizer)->bos_id(), std::nullopt);
}

// One change to the small file and a part of the sentence that refuses it.
void expect_refusal(const std::function<void(json::object&)>& change, const char* sentence) {
  json::value file = small_file();
  change(file.as_object());
  auto tokenizer = Tokenizer::parse(to_json(file), "");
  ASSERT_FALSE(tokenizer.ok()) << sentence;
  EXPECT_EQ(tokenizer.error().code, ErrorCode::kInvalidModel);
  EXPECT_THAT(tokenizer.error().message, testing::HasSubstr(sentence));
}

TEST(Tokenizer, RefusesBadFilesBySentence) {
  const auto model = [](json::object& file) -> json::object& { return file["model"].as_object(); };
  expect_refusal([](auto& f) { f.erase("model"); }, "lacks \"model\"");
  expect_refusal([](auto& f) { f["model"] = 5; }, "no object \"model\"");
  expect_refusal([&](auto& f) { model(f)["type"] = "Unigram"; }, "Unigram");
  expect_refusal([&](auto& f) { model(f)["vocab"] = json::array(); }, "model.vocab");
  expect_refusal([&](auto& f) { model(f)["vocab"].as_object()["c"] = -1; }, "the id -1");
  expect_refusal([&](auto& f) { model(f)["vocab"].as_object()["c"] = 1 << 30; },
                 "the id 1073741824");
  expect_refusal([&](auto& f) { model(f)["vocab"].as_object()["c"] = 5; }, "two tokens the id 5");
  expect_refusal([&](auto& f) { model(f)["vocab"].as_object()["c"] = "x"; }, "the id \"x\"");
  expect_refusal([&](auto& f) { model(f)["merges"] = json::array{"a c"}; }, "lacks its right side");
  expect_refusal([&](auto& f) { model(f)["merges"] = json::array{"b a"}; }, "lacks its result");
  expect_refusal([&](auto& f) { model(f)["merges"] = json::array{"ab"}; }, "merge 0");
  expect_refusal([&](auto& f) { model(f)["merges"] = json::array{"a b c"}; }, "merge 0");
  expect_refusal([&](auto& f) { model(f)["merges"] = json::array{json::array{"a", 5}}; },
                 "merge 0");
  expect_refusal([&](auto& f) { model(f)["dropout"] = 0.1; }, "dropout");
  expect_refusal([&](auto& f) { model(f)["unk_token"] = "zzz"; }, "unk_token");
  expect_refusal([&](auto& f) { model(f)["ignore_merges"] = 1; }, "ignore_merges");
  expect_refusal([&](auto& f) { model(f)["end_of_word_suffix"] = "</w>"; }, "end_of_word_suffix");
  expect_refusal([](auto& f) { f["normalizer"] = {{"type", "NFC"}}; }, "NFC");
  expect_refusal([](auto& f) { f["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "Metaspace");
  expect_refusal([](auto& f) { f["pre_tokenizer"] = nullptr; }, "pre_tokenizer");
  expect_refusal([](auto& f) { f["pre_tokenizer"] = {{"type", "Digits"}}; }, "ByteLevel");
  expect_refusal(
      [](auto& f) {
        f["pre_tokenizer"] = {
            {"type", "Split"}, {"pattern", {{"Regex", "[a&&b]"}}}, {"behavior", "Isolated"}};
      },
      "intersection of classes");
  expect_refusal([](auto& f) { f["decoder"] = {{"type", "WordPiece"}}; }, "WordPiece");
  expect_refusal([](auto& f) { f["decoder"] = nullptr; }, "decoder is missing");
  expect_refusal([](auto& f) { f["post_processor"] = {{"type", "BertProcessing"}}; },
                 "BertProcessing");
  expect_refusal([](auto& f) { f["post_processor"].at("single").as_array().clear(); },
                 "no sequence");
  expect_refusal([](auto& f) { f["post_processor"].at("special_tokens").as_object().clear(); },
                 "names no ids");
  expect_refusal(
      [](auto& f) {
        f["post_processor"].at("special_tokens").at("<bos>").as_object()["ids"] =
            json::array{4000000};
      },
      "4000000");
  expect_refusal([](auto& f) { f["added_tokens"] = 5; }, "added_tokens");
  expect_refusal([](auto& f) { f["added_tokens"] = json::array{5}; }, "added token 5");
  expect_refusal([](auto& f) { f["added_tokens"].at(0).as_object()["id"] = 5; }, "another token");
  expect_refusal([](auto& f) { f["added_tokens"].at(0).as_object()["id"] = 7; },
                 "two added tokens");
  expect_refusal([](auto& f) { f["added_tokens"].at(0).as_object()["content"] = "ab"; },
                 "model.vocab gives it 9");
  expect_refusal(
      [](auto& f) { f["added_tokens"].at(0).as_object()["content"] = std::string(2000, 'x'); },
      "2000 bytes");
  for (const char* text : {"", "{", "[]", "null", "{\"model\": {}}", "\xff", "[[[[[[[[[["}) {
    EXPECT_FALSE(Tokenizer::parse(text, "").ok()) << text;
  }
  EXPECT_FALSE(Tokenizer::parse(std::string(100000, '['), "").ok());
  EXPECT_FALSE(Tokenizer::parse(to_json(small_file()), "{").ok());
  EXPECT_EQ(Tokenizer::load(kTests).error().code, ErrorCode::kNotFound);
}

TEST(Tokenizer, EndlessPatternsEndAtTheLimit) {
  json::value file = small_file();
  file.as_object()["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(a|a|aa|aaa)+$c"}}}, {"behavior", "Isolated"}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const auto tokenizer = parse_or_fail(file);
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->encode(std::string(60, 'a'), false), std::vector<int32_t>(60, 5));
}

TEST(Tokenizer, LongRunsTakeNoQuadraticTime) {
  auto tokenizer = Tokenizer::load(kTinyB + "/checkpoint");
  ASSERT_TRUE(tokenizer.ok());
  for (const char* unit : {"a", " ", "A", ".", "\n", "語", "7", "aA ", "<"}) {
    std::string text;
    while (text.size() < 300'000) text += unit;  // squared, this would be minutes
    const auto ids = (*tokenizer)->encode(text, false);
    EXPECT_EQ((*tokenizer)->decode(ids, false), text);
  }
}

TEST(Tokenizer, ThreadsShareOne) {
  auto loaded = Tokenizer::load(kTinyB + "/checkpoint");
  ASSERT_TRUE(loaded.ok());
  const Tokenizer& tokenizer = **loaded;
  std::mt19937 random(8);
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> ids;
  for (int i = 0; i < 200; ++i) {
    texts.push_back(random_text(random, 40));
    ids.push_back(tokenizer.encode(texts.back(), true));
  }
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) wrong += tokenizer.encode(texts[i], true) != ids[i];
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace videre
