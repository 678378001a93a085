"""The panel's parts: each binds some widgets of the .ui file to the parameter node and the logic.

Qt and MRML, no algorithm and no torch. What they show comes from the scene and goes to it, so that a panel
can be closed, reloaded, or given another scene at any time.
"""
