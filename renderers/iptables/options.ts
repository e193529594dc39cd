/** The backend's section of the configuration. */

export interface IptOptions {
  /** Whether the ranges are in ipsets and not one rule each. */
  readonly set: boolean;
  /** Interfaces that lockdown leaves alone, next to lo and Docker's bridges. */
  readonly trusted: readonly string[];
}
