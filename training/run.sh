#!/bin/bash
# Draws, trains, exports and evaluates in one command, on all GPUs of this machine:
#   training/run.sh RUN SECONDS [trainer's options, e.g. --init models/videre-tiny]
# Fonts come from FONT_DIRS (default /usr/share/fonts), words from WORDS (default /usr/share/dict/words); see README.md.
# Started again with the same RUN it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
run=$1 seconds=$2
shift 2
[ -d .vt/fonts ] || python3 -m training.fonts .vt/fonts ${FONT_DIRS:-/usr/share/fonts}
[ -f .vt/words ] || cp -L "${WORDS:-/usr/share/dict/words}" .vt/words
if [ ! -f .vt/tok/tokenizer.json ]; then    # the shipped model's vocabulary, if there is one
  mkdir -p .vt/tok
  cp models/videre-tiny/tokenizer.json .vt/tok/ 2>/dev/null || python3 -m training.prompt .vt/tok
fi
gpus=$(python3 -c 'import torch; print(torch.cuda.device_count())')
export MASTER_ADDR=127.0.0.1 MASTER_PORT=${MASTER_PORT:-29512} WORLD_SIZE=$gpus OMP_NUM_THREADS=4
[ "$gpus" -gt 0 ] || { echo "run.sh: no GPU seen; python3 -m training.train RUN --cpu runs a few steps on a CPU" >&2; exit 1; }
mkdir -p "$run"
for rank in $(seq 1 $((gpus - 1))); do
  RANK=$rank python3 -m training.train "$run" --workers $(($(nproc) / gpus - 2)) --seconds "$seconds" --attention flex "$@" > "$run/out.$rank" 2>&1 &
done
RANK=0 python3 -m training.train "$run" --workers $(($(nproc) / gpus - 2)) --seconds "$seconds" --attention flex "$@"
wait
python3 -m training.evaluate "$run/model" --batch 100 --variants bf16,float32,fp8,nvfp4,nvfp4-w4a4,evs-0.5,evs-0.75 --json "$run/evaluation.json"
