#!/usr/bin/env bash
# Trains everything that ships with the package, on a machine with CUDA GPUs, in parts that each end
# within ten minutes on one H200. A part that is run again goes on where it stopped.
#   first, more, finish   all from nothing
#   again, again, finish  UNet and text encoder once more, from compose/world/weights, with the VAE
#                         that ships; RUN must be empty at first
#   finish                in an empty RUN: recognizer and adapters alone, for the weights that ship
#   tara                  only the characters' versions for the method tara, from RUN/export or the
#                         weights that ship; on a CPU too, one after another
# Results lie in RUN; pieces to carry away lie in OUT. Minutes: VAE, UNET (whole budgets), NOW (of
# one call); LR is the peak rate of `again`; STEPS of an adapter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1 PYTHONPATH=".:${PYTHONPATH:-}"
RUN=${RUN:-runs/world}
OUT=${OUT:-$RUN/out}
PYTHON=${PYTHON:-python3}
VAE=${VAE:-3.5}
mkdir -p "$RUN" "$OUT"

world() {
  "$PYTHON" -m compose.train world --out "$RUN" --minutes-vae "$VAE" --minutes-unet "${UNET:-10}" "$@" ||
    [ $? -eq 3 ] # 3: the time of this call ran out
}

recognizer() {
  local vae="$RUN/vae/weights" gpus
  [ -d "$vae" ] || vae=compose/world/weights/vae
  gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
  CUDA_VISIBLE_DEVICES=$((gpus - 1)) "$PYTHON" -m compose.train recognizer --out "$RUN" \
    --vae "$vae" --minutes 2.5 --scenes 240000 --device cuda --workers 12
}

base() { # folder of the pipeline that adapters belong to
  if [ -d "$RUN/export" ]; then echo "$RUN/export"; else echo compose/world/weights; fi
}

loras() { # rank, concepts
  local rank=$1
  shift
  "$PYTHON" -m compose.train loras --model "$(base)" --out "$RUN/adapters" --jobs 8 \
    --only "$@" --set rank="$rank" --set steps="${STEPS:-800}"
}

tara() { # the characters once more, as NAME-tara: docs/decisions/0013-tara-training.md
  local model="$RUN/export"
  [ -d "$model" ] || model=compose/world/weights
  "$PYTHON" -m compose.train loras --model "$model" --out "$RUN/adapters" --suffix=-tara \
    --only mochi ember biscuit domino juniper bolt --set tara=true --set rank=2 \
    --set company=0.6 --set prior=0.25 --set steps="${STEPS:-800}"
}

collect() { # what is worth carrying away, in pieces of at most 15 MiB
  rm -rf "$RUN/carry" && mkdir -p "$RUN/carry"
  [ -d "$RUN/export" ] && cp -r "$RUN/export" "$RUN/carry/weights"
  [ -d "$RUN/adapters" ] && cp -r "$RUN/adapters" "$RUN/carry/adapters"
  [ -d "$RUN/figures" ] && cp -r "$RUN/figures" "$RUN/carry/figures"
  [ -f "$RUN/recognizer/recognizer.safetensors" ] && cp "$RUN/recognizer/recognizer.safetensors" "$RUN/carry/"
  cp "$RUN"/*.jsonl "$RUN/carry/" 2>/dev/null || true
  tar -C "$RUN/carry" -cf - . | split -b 15m - "$OUT/carry."
  cp "$RUN/samples.png" "$OUT/" 2>/dev/null || true
}

case "${1:-}" in
  first)
    world --stages data,vae,unet --minutes-now "${NOW:-9.2}"
    ;;
  more)
    recognizer > "$RUN/recognizer.log" 2>&1 &
    world --stages unet,export --minutes-now "${NOW:-9.2}"
    wait || true
    tail -n 25 "$RUN/recognizer.log"
    collect
    ;;
  again)
    UNET=${UNET:-13}
    world --stages data,unet,export --init compose/world/weights --all-scenes 0 \
      --unet-lr "${LR:-4e-4}" --minutes-now "${NOW:-8.6}"
    if [ -f "$RUN/unet/done.json" ]; then collect; fi
    ;;
  finish)
    if [ -d "$RUN/unet" ]; then world --stages unet,export; fi
    [ -f "$RUN/recognizer/recognizer.safetensors" ] || recognizer > "$RUN/recognizer.log" 2>&1 &
    # ranks that keep all shipped weights within 40 MB
    loras 4 mochi ember biscuit domino juniper bolt wizzo capely &
    loras 2 sticko sunvo blupri candia lunara rocko cakely &
    tara
    wait
    tail -n 13 "$RUN/recognizer.log" 2>/dev/null || true
    collect # should the time of the call end before the figures are done
    "$PYTHON" -m compose.evaluate.world all --out "$RUN/figures" --model "$(base)" \
      --adapters "$RUN/adapters" --recognizer "$RUN/recognizer/recognizer.safetensors" || true
    collect
    ;;
  tara)
    tara
    collect
    ;;
  *)
    echo "usage: $0 first|more|again|finish|tara" >&2
    exit 2
    ;;
esac
