/** Shows what a plan would do. */
import { changeText, type Output } from '../cli/output.ts';
import { unified } from '../engine/diff.ts';
import { planDiff, planId, type Plan } from '../engine/plan.ts';
import { ownAmong } from '../engine/job.ts';
import { escape } from '../text.ts';

/** Prints what would be done: the difference, then the steps, then the id. */
export function printPlan(plans: readonly Plan[], output: Output): void {
  for (const plan of plans) {
    for (const file of planDiff(plan)) output.diff(unified(file, ['a', 'b']));
    const name = plan.job.name;
    if (plan.steps.length === 0) output.note(`${name}: no changes`);
    for (const [i, step] of plan.steps.entries())
      output.print(escape(`step ${i + 1}: ${step.summary}`));
    const change = planText(plan);
    if (change !== '') output.sentence(`${name}: ${change}`);
  }
  if (plans.some((p) => p.steps.length > 0))
    output.print(`plan ${planId(plans)}: nothing was changed`);
}

/** What changes in address space, with the admin's own prefixes in it. */
export function planText({ job, added, removed }: Plan): string {
  const own = ownAmong(job, added, removed);
  return `${changeText(added, removed)}${own === '' ? '' : `; among them your own ${own}`}`;
}
