"""A door of PyWren 0.4: workers on EC2, over ``pywren.cloud.instances`` and ``pywren.cloud.launch``."""

from __future__ import annotations

from pywren.cloud.instances import Instance, Instances
from pywren.cloud.launch import Launcher, Order, Wish

__all__ = ["Instance", "Instances", "Launcher", "Order", "Wish"]
