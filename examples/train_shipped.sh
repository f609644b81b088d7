#!/usr/bin/env bash
# The weights that ship, from the labelled images alone: `examples/train_shipped.sh DATA FOLDER`, the stages of the model card
# in their order, with this project's programs on the PATH (. .venv/bin/activate). Six hours of two cores, and one stage on a GPU (on a machine without one that alone takes a day). Run again after
# it was stopped, it goes on.
#
# The card's last steps have no command yet: the mean with the ninth weights, and the fit of the class layer.
# The program has changed since the first stages (nucleus/cell and stains are taught otherwise), so that what comes out is
# like the weights that ship, not the same to the bit.
set -euo pipefail
data=$(realpath "$1")
mkdir -p "$2" && cd "$2"

stage() { # stage NAME LAUNCHER OPTIONS…: weights NAME.safetensors, unless they are there
    local name=$1 launcher=$2
    shift 2
    [ -f "$name.safetensors" ] && return
    $launcher train "$data" --out "$name.partial.safetensors" --work "$name.work" --arch hemax-s "$@"
    mv "$name.partial.md" "$name.md"
    mv "$name.partial.safetensors" "$name.safetensors"
}
mean() { # mean NAME OF…
    local name=$1
    shift
    [ -f "$name.safetensors" ] || hemax-batch models average "${@/%/.safetensors}" --out "$name.safetensors"
}
from() { echo "--from-weights hemax-s-$1.safetensors"; }
teacher() { echo "--teacher hemax-s-$1.safetensors"; }
both="torchrun --nproc-per-node 2 -m hemax_batch"
gpu=$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')

stage hemax-s-first "$both" --seed 0 --stain 1
stage hemax-s-second "$both" --steps 1600 --lr 0.0003 --seed 2 $(from first) --stain 1
stage hemax-s-third "$both" --steps 1200 --lr 0.0004 --seed 3 $(from second) --close --stain 1
mean hemax-s-early hemax-s-first hemax-s-second hemax-s-third
stage hemax-s-fourth "$both" --steps 3000 --lr 0.0005 --seed 4 $(from early) --close --stain 1
stage hemax-s-fifth hemax-batch --steps 1350 --lr 0.001 --seed 5 $(from fourth) --close --batch-size 512 --synthetic 60 --drop-path 0.1 --stain 1 --device "$gpu"
mean hemax-s-mean hemax-s-fourth hemax-s-fourth hemax-s-fifth hemax-s-fifth hemax-s-fifth
stage hemax-s-sixth "$both" --steps 320 --lr 0.0002 --seed 6 $(from mean) --synthetic 160 --drop-path 0.05 --stain 1
stage hemax-s-seventh "$both" --steps 260 --lr 0.0003 --seed 8 $(from sixth) --synthetic 160 --drop-path 0.05 $(teacher fourth) --stain 1
stage hemax-s-eighth "$both" --steps 640 --lr 0.0003 --seed 9 $(from seventh) --synthetic 160 --drop-path 0.05 --stain 1.5 --as-stained 0.3 $(teacher seventh)
[ -f hemax-s-ninth.safetensors ] || hemax-batch train "$data" --out hemax-s-ninth.safetensors --steps 0 --lr 0.0002 --seed 10 $(from eighth) --stain 1.5
stage hemax-s "$both" --steps 1600 --lr 0.0002 --seed 1 $(from ninth) --close --batch-size 24 --synthetic 200 --drop-path 0.1 --stain 1.5 --as-stained 0.25 --patience 99 --check-every 400
echo "$PWD/hemax-s.safetensors"
