// `videre export`: the model that the binary carries, as an ordinary folder.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include "base/error.h"
#include "base/output_folder.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "weights/model_files.h"

namespace videre {
namespace {

Status export_model(const std::string& destination) {
  VIDERE_ASSIGN_OR_RETURN(const ModelFiles files, open_model(kBuiltinModel, "", ""));
  VIDERE_ASSIGN_OR_RETURN(const auto names, files.names());
  int64_t size_bytes = 0;
  for (const std::string& name : names) {
    VIDERE_ASSIGN_OR_RETURN(const auto file, files.map(name));
    size_bytes += static_cast<int64_t>(file->bytes().size());
  }
  VIDERE_ASSIGN_OR_RETURN(const auto folder, OutputFolder::create(destination, size_bytes));
  for (const std::string& name : names) {
    VIDERE_ASSIGN_OR_RETURN(const auto file, files.map(name));
    VIDERE_ASSIGN_OR_RETURN(OutputFile * out, folder->add_file(name));
    VIDERE_RETURN_IF_ERROR(out->write_at(0, file->bytes()));
  }
  VIDERE_RETURN_IF_ERROR(folder->commit());
  fmt::print("{}: {}, {} files, {:.1f} MB\n", destination, files.path(), names.size(),
             static_cast<double>(size_bytes) / 1e6);
  return {};
}

}  // namespace

int export_command(const std::vector<std::string>& arguments) {
  CLI::App app("Writes the built-in model as an ordinary checkpoint folder.", "videre export");
  std::string destination;
  app.add_option("DST", destination, "the new folder; it may not exist yet")->required();
  return run_app(app, arguments, [&] {
    const Status done = export_model(destination);
    return done.ok() ? 0 : report(done.error());
  });
}

}  // namespace videre
