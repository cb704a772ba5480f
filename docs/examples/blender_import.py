"""Import every person of a run into Blender as an armature.

    blender --python docs/examples/blender_import.py -- out/clip

Run `manypose export out/clip --to bvh` first. Uses Blender's own BVH importer; a scene unit is a
metre, as everywhere in manypose.
"""

import sys
from pathlib import Path

import bpy  # Blender's own module


def main() -> None:
    """Import all person_*.bvh of the folder given after "--"."""
    folder = Path(sys.argv[sys.argv.index("--") + 1])
    for path in sorted(folder.glob("person_*.bvh")):
        bpy.ops.import_anim.bvh(
            filepath=str(path),
            axis_forward="-Z",
            axis_up="Y",
            global_scale=0.01,
            update_scene_fps=True,
            update_scene_duration=True,
        )


main()
