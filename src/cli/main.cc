// The program; everything is in command_line.cc, which the Python package calls too.
#include "cli/commands.h"

int main(int argc, char** argv) { return videre::run_command_line({argv, argv + argc}); }
