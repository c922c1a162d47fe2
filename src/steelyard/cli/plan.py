"""``steelyard plan``: what to buy, rent or set, before anything runs."""

from __future__ import annotations

from steelyard.cli import plan_context, plan_fleet, plan_nano, plan_parallel, plan_place, plan_power, plan_scale
from steelyard.cli.options import new_app

app = new_app("Plan hardware and layouts: each command prints a table, the plan, and why it is the best.")
app.command("context", epilog=plan_context.EXAMPLES)(plan_context.context)
app.command("fleet", epilog=plan_fleet.EXAMPLES)(plan_fleet.fleet)
app.command("nano", epilog=plan_nano.EXAMPLES)(plan_nano.nano)
app.command("parallel", epilog=plan_parallel.EXAMPLES)(plan_parallel.parallel)
app.command("place", epilog=plan_place.EXAMPLES)(plan_place.place)
app.command("power", epilog=plan_power.EXAMPLES)(plan_power.power)
app.command("scale", epilog=plan_scale.EXAMPLES)(plan_scale.scale)
app.callback()(lambda: None)
