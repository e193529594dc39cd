/** Looks whether a backend is what was planned. */
import { CfsyncError, exit } from '../errors.ts';
import type { Step } from '../renderer.ts';
import { look, type Plan } from './plan.ts';

/** Observes again: the steps from there to what is wanted. */
export async function stepsNow(plan: Plan): Promise<readonly Step[]> {
  const { renderer, options } = plan.job;
  const observed = await look(plan.job);
  const wanted =
    plan.wanted === renderer.nothing
      ? plan.wanted
      : renderer.want(plan.desired, options, observed.around).owned;
  return renderer.plan(wanted, observed);
}

/** Observes again and throws unless nothing is left to do, of those steps that count; answers the others. */
export async function settled(
  plan: Plan,
  counts: (step: Step) => boolean = () => true,
): Promise<readonly Step[]> {
  const steps = await stepsNow(plan);
  const left = steps.filter(counts);
  if (left.length > 0)
    throw new CfsyncError(
      exit.rolledBack,
      `${plan.job.name}: every step succeeded, and the backend still differs from the plan`,
      { detail: left.map((step) => `left to do: ${step.summary}`) },
    );
  return steps;
}
