#include "cli/made_up_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "text/bpe.h"

namespace videre {
namespace {

constexpr int kVocabSize = 131072, kNumSpecial = 1000, kFirstByte = 1000;
constexpr const char* kFirstSpecial[] = {"<unk>",
                                         "<s>",
                                         "</s>",
                                         "[INST]",
                                         "[/INST]",
                                         "[AVAILABLE_TOOLS]",
                                         "[/AVAILABLE_TOOLS]",
                                         "[TOOL_RESULTS]",
                                         "[/TOOL_RESULTS]",
                                         "[TOOL_CALLS]"};
constexpr const char* kLastSpecial[] = {"<image>", "<img>",  "</img>", "<quad>", "</quad>",
                                        "<ref>",   "</ref>", "<box>",  "</box>", "<video>"};
// Where logs of the real model show them.
constexpr std::pair<int, std::string_view> kKnown[] = {
    {1561, ">\n"}, {24073, "video"}, {102897, "Assistant"}};

// Pieces that are one token with the real vocabulary, beside words.
constexpr std::string_view kMarks[] = {
    "></",  "</",     " <",  ".\n", ",\n", ":\n", ";\n", "!\n", "?\n",  ".\n\n", ":\n\n",
    "\n\n", "\n\n\n", " (",  " \"", "\",", "\":", "():", "()",  ");",   "{\n",   "}\n",
    " =",   " ==",    " +",  " -",  " *",  " /",  " {",  " [",  "//",   "--",    "---",
    "...",  "**",     " **", "##",  "###", " |",  "| ",  "'s",  "\t\t", " \n",
};

// As " word", "word", " Word" and "Word".
constexpr std::string_view kWords =
    "about above across act add after again against age ago air all almost alone along already "
    "also "
    "always among amount and animal another answer any appear area arm around art ask available "
    "away back background bad bar base because become been before began behind being below "
    "between big black blue board boat body book both bottom box boy bread bring brown build "
    "building bus but buy call camera can car card care carry cat cause center chair change chart "
    "child children city class clear clock close cloud code cold color column come common compare "
    "complete contain content corner correct could count country course cover current cut dark "
    "data "
    "date day decide deep describe desk detail did difference different direct display distance "
    "does dog done door down draw drive during each early earth easy eat edge eight either "
    "empty end enough environment even every example explain expression eye face fact fall family "
    "far farm fast father feel few field figure file fill final find fine fire first fish five "
    "flag floor flower fly follow food foot for force form found four frame free from front full "
    "function game gave general get girl give glass good got grass gray great green ground group "
    "grow had half hand happen hard has hat have head hear heart height help her here high him "
    "his hold home horse hot hour house how hundred idea image images important inch inside "
    "instead into its just keep key kind know label land language large last late later laugh lead "
    "learn leave left length less let letter level light like line list little live local long "
    "look "
    "lot love low machine made main make man many map mark mean measure men might mile mind "
    "minute model moment money month moon more morning most mother mountain move much must name "
    "natural near need never new next night nine not note notice now null number object off "
    "office often old one only open orange order other our out outside over own page paint paper "
    "part pass path pattern people percent person phone photo picture piece place plain plan plane "
    "plant play point position possible power present press problem product program provide "
    "public pull put question quick quite rain ran read ready real reason receipt record red "
    "remember rest result return right river road rock room round row rule run sad said same "
    "sampled saw say scene school science screen sea second seconds section see seem select self "
    "sentence set seven several shadow shape she ship shirt shop short should show side sign "
    "simple since single sit six size sky sleep slow small snow some song soon sound source south "
    "space speak special square stand star start state stay step still stop store story street "
    "string strong student study such summary sun sure surface system table take talk tell ten "
    "test text than that the their them then there these they thing think third this those though "
    "thought three through time title today together too took tool top total town traffic train "
    "travel tree true try turn two type under understand unit until upon use user usual value "
    "very video videos view visible voice wait walk wall want war warm was watch water way wear "
    "week weight "
    "well went were west what wheel when where which while white who whole why wide wife will "
    "wind window with without woman wood word words work world would write year yellow yes you "
    "young your zero";
constexpr std::string_view kShortWords =
    "am an as at be by do go he if in is it me my no of on or so to up us we";

// Everything that has an id below kVocabSize, by id, and the merges by rank.
class Vocabulary {
 public:
  Vocabulary() : entries_(kVocabSize) {
    for (int id = 0; id < kNumSpecial; ++id) {
      entries_[id] = id < static_cast<int>(std::size(kFirstSpecial))
                         ? kFirstSpecial[id]
                         : fmt::format("<SPECIAL_{}>", id);
    }
    for (int byte = 0; byte < 256; ++byte) {
      place(kFirstByte + byte, std::string(1, static_cast<char>(byte)));
    }
    for (const auto& [id, text] : kKnown) place(id, std::string(text));
    next_ = kFirstByte + 256;
    add_pieces();
    add_words();
    add_filling();
    VIDERE_CHECK_EQ(next_, kVocabSize);
  }

  /// In the byte-level alphabet; special tokens as they are.
  const std::vector<std::string>& entries() const { return entries_; }
  const std::vector<std::pair<std::string, std::string>>& merges() const { return merges_; }

 private:
  void place(int id, const std::string& text) {
    VIDERE_CHECK(taken_.insert(text).second) << text;
    entries_[id] = byte_level_encode(text);
  }
  void add(const std::string& text) {
    while (next_ < kVocabSize && !entries_[next_].empty()) ++next_;
    if (next_ < kVocabSize && taken_.count(text) == 0) place(next_++, text);
  }
  void add_merged(const std::string& left, const std::string& right) {
    add(left + right);
    const auto rank = static_cast<int>(merges_.size());
    if (ranks_.emplace(std::pair(left, right), rank).second) {
      merges_.emplace_back(byte_level_encode(left), byte_level_encode(right));
    }
  }

  // All runs of two and three small letters, first those that begin a word: what no word covers
  // falls into them.
  void add_pieces() {
    for (char a = 'a'; a <= 'z'; ++a) add_merged(" ", {a});
    for (const std::string start : {" ", ""}) {
      for (char a = 'a'; a <= 'z'; ++a) {
        for (char b = 'a'; b <= 'z'; ++b) add_merged(start + a, {b});
      }
      for (char a = 'a'; a <= 'z'; ++a) {
        for (char b = 'a'; b <= 'z'; ++b) {
          for (char c = 'a'; c <= 'z'; ++c) add_merged(start + a + b, {c});
        }
      }
    }
  }

  // Makes `word` one token where it is but a part of a piece, as in "<think": what the merges so
  // far leave of it is joined.
  void join(const std::string& word) {
    std::vector<std::string> symbols;
    for (const char c : word) symbols.emplace_back(1, c);
    while (symbols.size() > 1) {
      size_t best = 0;
      auto best_rank = static_cast<int>(merges_.size());
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks_.find({symbols[i], symbols[i + 1]});
        if (found == ranks_.end() || found->second >= best_rank) continue;
        best = i;
        best_rank = found->second;
      }
      if (best_rank == std::ssize(merges_)) add_merged(symbols[0], symbols[1]);
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
  }

  // Whole pieces are looked up before merges (ignore_merges).
  void add_words() {
    for (const std::string_view mark : kMarks) add(std::string(mark));
    for (int length = 2; length <= 32; ++length) add(std::string(length, ' '));
    for (std::string_view rest : {kWords, kShortWords}) {
      while (!rest.empty()) {
        const size_t end = std::min(rest.find(' '), rest.size());
        std::string word(rest.substr(0, end));
        rest.remove_prefix(std::min(end + 1, rest.size()));
        join(word);
        for (int capital = 0; capital < 2; ++capital) {
          add(" " + word);
          add(word);
          word[0] = static_cast<char>(word[0] - 'a' + 'A');
        }
      }
    }
  }

  void add_filling() {
    constexpr std::string_view kConsonants = "bcdfghjklmnpqrstvwxz", kVowels = "aeiou";
    for (const char a : kConsonants) {
      for (const char b : kVowels) {
        for (const char c : kConsonants) {
          for (const char d : kVowels) {
            for (const char e : kConsonants) add({' ', c, d, a, b, e});
          }
        }
      }
    }
    while (next_ < kVocabSize && !entries_[next_].empty()) ++next_;
  }

  std::vector<std::string> entries_;
  std::vector<std::pair<std::string, std::string>> merges_;
  std::map<std::pair<std::string, std::string>, int> ranks_;
  std::unordered_set<std::string> taken_;
  int next_ = 0;
};

std::string quoted(const std::string& text) { return to_json(json::string(text)); }

}  // namespace

std::string made_up_tokenizer_json() {
  const Vocabulary vocabulary;
  std::string out = R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [)";
  const auto add_token = [&](int id, const std::string& text) {
    out += fmt::format(
        R"({}{{"id": {}, "content": {}, "single_word": false, "lstrip": false, "rstrip": false, )"
        R"("normalized": false, "special": true}})",
        id == 0 ? "\n" : ",\n", id, quoted(text));
  };
  for (int id = 0; id < kNumSpecial; ++id) add_token(id, vocabulary.entries()[id]);
  int id = kVocabSize;
  for (const char* text : kLastSpecial) add_token(id++, text);
  out += R"(
],
"normalizer": null,
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
 {"type": "Split", "pattern": {"Regex": )";
  out += quoted(R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)");
  out += R"(}, "behavior": "Isolated", "invert": false},
 {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
"post_processor": {"type": "TemplateProcessing",
 "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
 "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
 "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
"decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
"model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
 "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
"vocab": {)";
  const char* comma = "\n";
  for (int i = 0; i < kVocabSize; ++i) {
    out += fmt::format("{}{}:{}", comma, quoted(vocabulary.entries()[i]), i);
    comma = i % 16 == 15 ? ",\n" : ",";
  }
  out += "},\n\"merges\": [";
  comma = "\n";
  for (const auto& [left, right] : vocabulary.merges()) {
    out += fmt::format("{}[{},{}]", comma, quoted(left), quoted(right));
    comma = ",";
  }
  return out + "]}}\n";
}

std::string made_up_tokenizer_config_json() {
  return R"({
 "tokenizer_class": "PreTrainedTokenizerFast",
 "bos_token": "<s>",
 "eos_token": "<SPECIAL_12>",
 "unk_token": "<unk>",
 "model_max_length": 131072,
 "clean_up_tokenization_spaces": false
}
)";
}

}  // namespace videre
