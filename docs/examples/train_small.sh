#!/bin/sh
# From photos to released weights, every step once and small.
#
#   PHOTOS=coco:train.json,images=DIR VAL=coco:val.json,images=DIR \
#   AVATARS=avatars.zip MOCAP=mocap.npz sh docs/examples/train_small.sh OUT
#
# Optional: EMPTY (address of pictures without people), INIT (an ema.pt to start from),
# MINUTES (of the first training, default 25), NET ("--backbone selecsls42 --width 0.375").
set -eu
out=${1:?"give a folder for everything that is made"}
net=${NET:-"--backbone selecsls42 --width 0.375"}
minutes=${MINUTES:-25}
first=$((minutes * 3 / 5 + 1)) second=$((minutes - minutes * 3 / 5))
small="--preset cpu $net --parts 1:256x160x8 --weight-3d 0.2 --score-every 100000"

manypose train pack "$PHOTOS" --out "$out/photos" --side 384
manypose train pack "$VAL" --out "$out/val"
manypose train render --avatars "$AVATARS" --mocap "$MOCAP" ${EMPTY:+--photos "$EMPTY"} --size 320x192 --count 300 --out "$out/renders"
manypose train render --avatars "$AVATARS" --mocap "$MOCAP" ${EMPTY:+--photos "$EMPTY"} --size 320x192 --count 60 --split val --out "$out/unseen"
manypose train stage1 $small --data "pack:$out/photos,share=0.8" "renders:$out/renders,share=0.2" --val "pack:$out/val" --val-3d "renders:$out/unseen" ${INIT:+--init "$INIT"} --minutes "$first" --out "$out/round1"
manypose train relabel "pack:$out/photos,limit=60" --weights "$out/round1/ema.pt" --out "$out/relabelled"
manypose train stage1 $small --data "pack:$out/photos,share=0.7" "pack:$out/relabelled,share=0.1" "renders:$out/renders,share=0.2" --val "pack:$out/val" --val-3d "renders:$out/unseen" --init "$out/round1/ema.pt" --minutes "$second" --out "$out/round2"
manypose train faults "$out/round2/ema.pt" --val "pack:$out/val" "renders:$out/unseen" --size 320x192 --out "$out/faults.json"
manypose train stage2 --mocap "$MOCAP" --avatars "$AVATARS" --errors "$out/faults.json" --minutes 2 --out "$out/lifter"
manypose train release "$out/round2/ema.pt" --name small --size 320x192 --val "pack:$out/val" --calibrate "pack:$out/photos" --count 60 --out "$out/weights"
