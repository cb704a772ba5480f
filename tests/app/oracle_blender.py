"""Blender's own view of a file, for a Python that has bpy: ``python oracle_blender.py FILE``.

Prints {"names": [...], "fps": Hz, "positions": frames x bones x 3}: the heads of all bones, metres,
y up (Blender's z-up turned back), at every frame of the animation.
"""

import json
import sys

import bpy


def load(path):
    """Read a file with the settings that docs/exports.md names."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.endswith(".glb"):
        bpy.context.scene.render.fps = 30  # times in the file are seconds
        bpy.ops.import_scene.gltf(filepath=path)
    else:
        bpy.ops.import_anim.bvh(
            filepath=path, axis_forward="-Z", axis_up="Y", global_scale=0.01, update_scene_fps=True,
            update_scene_duration=True,
        )  # fmt: skip


def main():
    """Print where Blender sees the bones."""
    load(sys.argv[1])
    scene = bpy.context.scene
    rigs = [o for o in bpy.data.objects if o.type == "ARMATURE"]
    ranges = [a.frame_range for a in bpy.data.actions]
    start, end = min(r[0] for r in ranges), max(r[1] for r in ranges)
    names = [bone.name for rig in rigs for bone in rig.pose.bones]
    frames = []
    for number in range(round(start), round(end) + 1):
        scene.frame_set(number)
        heads = [rig.matrix_world @ bone.head for rig in rigs for bone in rig.pose.bones]
        frames.append([[x, z, -y] for x, y, z in heads])
    fps = scene.render.fps / scene.render.fps_base
    told = {"names": names, "fps": fps, "positions": frames}
    sys.stdout.write(f"\nORACLE {json.dumps(told)}\n")


main()
