#!/usr/bin/env bash
# From a bare machine with Python to the main job: data, pre-training, three ways of training on a new task,
# evaluation, export. Needs a package index and nothing else; about five minutes on two CPU cores.
#   bash launch/quickstart.sh               drawn images, offline
#   bash launch/quickstart.sh --cifar10     CIFAR-10 and ImageNet weights, downloaded (wants a GPU)
# Folders: DATA (data) and RUNS (runs/quickstart). The same command again goes on where it stopped.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

dataset=drawings
case "${1:-}" in
  "") ;;
  --cifar10) dataset=cifar10 ;;
  *) echo "error: $1: takes --cifar10 or nothing" >&2 && exit 2 ;;
esac

started=$SECONDS
step() { printf '\n== %s (%d s)\n' "$1" $((SECONDS - started)); }
build() { # FOLDER FLAGS...
  local folder=$1
  shift
  if [ -e "$folder/dataset.json" ]; then
    echo "$folder is there already"
  else
    python -m data_prep.build_tfrecords --output_dir="$folder" "$@"
  fi
}
train() { # NAME FLAGS...
  local name=$1
  shift
  python -m tl_distributed.train --workdir="$runs/$name" "$@"
}

step "Virtual environment"
make_environment "${EXTRAS:-dev}"
PATH="$VENV/bin:$PATH"
cd "$repository"
data=${DATA:-data} runs=${RUNS:-runs/quickstart}

if [ "$dataset" = cifar10 ]; then
  runs=${RUNS:-runs/quickstart_cifar10}
  step "Data: CIFAR-10"
  build "$data/cifar10" --source=cifar10
  common=(--data_dir="$data/cifar10")
  step "From scratch: a small CNN"
  train scratch "${common[@]}" --backbone=baseline_cnn --epochs=20
  step "Frozen: MobileNetV2 with ImageNet weights, only the head trains"
  train frozen "${common[@]}" --backbone=mobilenet_v2 --image_size=96 --transfer=frozen --epochs=5
  step "Fine-tuned: everything trains"
  train full "${common[@]}" --backbone=mobilenet_v2 --image_size=96 --transfer=full --epochs=5
else
  step "Data: 24 drawn classes to learn from, 10 others with few images"
  build "$data/drawings_source" --source=synthetic --synthetic_task=source --num_shards=4
  build "$data/drawings_target" --source=synthetic --synthetic_task=target --num_shards=4 \
    --images_per_class=40 --val_fraction=0.5 # as many to choose the best epoch by as to train on
  step "Pre-training a small residual net on the 24 classes"
  small=(--backbone=resnet20 --dropout=0 --global_batch_size=32 --weight_decay=1e-3)
  train pretrained "${small[@]}" --data_dir="$data/drawings_source" --transfer=scratch \
    --augment=none --horizontal_flip --learning_rate=3e-3 --epochs=5 --warmup_epochs=0.5
  small+=(--data_dir="$data/drawings_target")
  step "From scratch on the 10 classes"
  train scratch "${small[@]}" --transfer=scratch --learning_rate=3e-3 --epochs=30
  step "Frozen: only the head trains"
  train frozen "${small[@]}" --weights="$runs/pretrained" --transfer=frozen --learning_rate=1e-2 --epochs=20
  step "Fine-tuned: first the head, then everything"
  train full "${small[@]}" --weights="$runs/pretrained" --transfer=two_phase --learning_rate=1e-2 --head_epochs=10 \
    --finetune_learning_rate=3e-4 --epochs=20
fi

step "Evaluate and export the fine-tuned model"
python -m tl_distributed.evaluate --workdir="$runs/full" --split=test
python -m tl_distributed.export --workdir="$runs/full" --format=saved_model --overwrite
python -m tl_distributed.export --workdir="$runs/full" --format=tflite --overwrite

step "Result"
python - "$runs" <<'P'
import json
import sys

print(f"{'training':14}{'test accuracy':>15}{'images':>9}{'seconds':>9}")
for name, label in (("scratch", "from scratch"), ("frozen", "frozen"), ("full", "fine-tuned")):
    with open(f"{sys.argv[1]}/{name}/results.json") as file:
        results = json.load(file)
    print(f"{label:14}{results['test_accuracy']:15.1%}{results['num_examples']['test']:9}{results['seconds']:9.0f}")
P
echo "Plots: $runs/*/plots   Exported models: $runs/full/export"
printf 'Charts: %q --logdir %q\n' "$VENV/bin/tensorboard" "$runs"
